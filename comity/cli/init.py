"""`comity init`: the files that a new server starts from."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from comity.cli import certificates, configuration_text
from comity.cli.files import new_signing_key, write_new
from comity.net.system import SystemClock, SystemEntropy
from comity.protocol.identifiers import ip_literal, parse_server_name

CONFIGURATION = "comity.toml"
CERTIFICATE = "certificate.pem"
PRIVATE_KEY = "private_key.pem"
DATA = "data"
SIGNING_KEY = f"{DATA}/signing.key"
#: Characters of the shared secret that the file suggests; 62 ** 43 is more than 2 ** 256.
SECRET_LENGTH = 43

#: For a start the server is reached from its own machine alone, plainly and with TLS.
VALUES = {
    "data_dir": DATA,
    "listeners.bind": "127.0.0.1:8008",
    "listeners.serves": ["client", "federation"],
    "listeners.tls": False,
    "tls.certificate": CERTIFICATE,
    "tls.private_key": PRIVATE_KEY,
}
TLS_LISTENER = {"bind": "127.0.0.1:8448", "serves": ["client", "federation"], "tls": True}


@click.command("init")
@click.argument("server_name")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Where to write (default: here).",
)
def command(server_name: str, directory: Path) -> None:
    """Write what a new server needs: a configuration, a signing key, a certificate.

    SERVER_NAME is the part after the colon in @user:name. It can never be changed.
    """
    try:
        host, _ = parse_server_name(server_name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="SERVER_NAME") from None
    existing = [
        name for name in (CONFIGURATION, SIGNING_KEY, CERTIFICATE, PRIVATE_KEY) if (directory / name).exists()
    ]
    if existing:
        raise click.ClickException(
            "Nothing is ever overwritten, and this exists already: "
            + ", ".join(str(directory / name) for name in existing)
            + ". Choose another folder with --dir."
        )
    try:
        _write_all(server_name, ip_literal(host) or host, directory)
    except OSError as error:
        raise click.ClickException(f"{error.filename} cannot be written: {error.strerror}") from None
    _say_what_next(server_name, directory)


def _write_all(server_name: str, host: str, directory: Path) -> None:
    entropy = SystemEntropy()
    now = datetime.datetime.fromtimestamp(SystemClock().now_ms() / 1000, datetime.UTC)
    certificate = certificates.self_signed([host], now)
    (directory / DATA).mkdir(parents=True, exist_ok=True, mode=0o700)
    new_signing_key(directory / SIGNING_KEY, entropy)
    write_new(directory / PRIVATE_KEY, certificate.private_key_pem, private=True)
    write_new(directory / CERTIFICATE, certificate.certificate_pem, private=False)
    # Last, because a folder with a configuration is complete. Private: it may come to hold secrets.
    values = {"server_name": server_name, **VALUES}
    # Who takes away the comment sign before an example must not end with a secret that all know.
    examples = {"registration.shared_secret": entropy.token(SECRET_LENGTH)}
    text = configuration_text.render(values, examples, [TLS_LISTENER])
    write_new(directory / CONFIGURATION, text.encode(), private=True)


def _say_what_next(server_name: str, directory: Path) -> None:
    configuration = directory / CONFIGURATION
    option = "" if directory == Path() else f" --config {configuration}"
    click.echo(f"""\
{server_name} is ready to start. Written:
  {configuration}  every setting, explained
  {directory / SIGNING_KEY}  who this server is: keep a copy in a safe place
  {directory / CERTIFICATE}, {PRIVATE_KEY}  signed by itself, for a start

What next:
  1. comity serve{option}
  2. comity user add NAME --admin{option}
  3. log in with any Matrix client at http://localhost:8008

It listens on this machine alone. To be found by other servers it needs a certificate that they
trust and an open port: docs/running.md, "TLS" and "Being found". Whether it is, tells
  comity check {server_name}{option}""")
