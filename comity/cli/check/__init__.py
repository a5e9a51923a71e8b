"""`comity check`: whether a server can be found, connected to and talked with, step by step."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import click
import orjson

from comity import __version__
from comity.cli.check.asking import Asker
from comity.cli.check.connecting import connect
from comity.cli.check.discovering import discover
from comity.cli.check.patient import Patient
from comity.cli.check.report import Report
from comity.cli.options import config_option, exit_with, load_or_exit
from comity.cli.telling import plain
from comity.config import Config, ConfigError, signing_key
from comity.net.dns import DnsResolver
from comity.net.http_client import HttpsTransport
from comity.net.system import SystemClock
from comity.net.tls_probe import TlsProber
from comity.protocol.signing import SigningKey

USER_AGENT = f"comity/{__version__} (check)"


@click.command("check")
@click.argument("name", metavar="SERVER_NAME")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@config_option
def command(name: str, as_json: bool, path: Path | None) -> None:
    """Look at a server as another one does, this one or any: how it is found, every address and the
    certificate there, its keys, and whether it accepts what this server signs. Each step says how
    long it took, and what to do where it failed. The exit code is 1 if a step failed. The server
    may be running.
    """
    config = load_or_exit(path)
    report = Report(SystemClock(), shown=not as_json, live=sys.stdout.isatty())
    if not as_json:
        click.secho(plain(name), bold=True)
    asyncio.run(_check(config, name, report))
    report.conclude()
    if as_json:
        answer = {"server": name, "ok": not report.failed, "steps": report.steps}
        click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2))
    sys.exit(1 if report.failed else 0)


async def _check(config: Config, name: str, report: Report) -> None:
    federation = config.federation
    client_certificate = None
    if federation.client_certificate is not None and federation.client_private_key is not None:
        client_certificate = federation.client_certificate, federation.client_private_key
    transport = HttpsTransport(
        trusted_ca=federation.trusted_ca,
        verify_certificates=federation.verify_certificates,
        allow_ranges=federation.allow_ranges,
        user_agent=USER_AGENT,
        client_certificate=client_certificate,
    )
    async with AsyncExitStack() as stack:
        try:
            prober = TlsProber(
                trusted_ca=federation.trusted_ca,
                allow_ranges=federation.allow_ranges,
                client_certificate=client_certificate,
            )
            await transport.open()
        except OSError as error:
            exit_with(
                [f"a certificate of the section [federation] cannot be used: {error.strerror or error}"]
            )
        stack.push_async_callback(transport.close)
        patient = Patient(
            name, config, _key(config), transport, DnsResolver(), prober, SystemClock(), report
        )  # fmt: skip
        targets = await discover(patient)
        works = await connect(patient, targets)
        await Asker(patient, works).ask()


def _key(config: Config) -> SigningKey | None:
    """Our signing key, None before the server has run for the first time."""
    if not config.signing_key_file.exists():
        return None
    try:
        return signing_key.read(config.signing_key_file)
    except ConfigError as error:
        exit_with(list(error.problems))
