"""`comity key`: the key that signs for this server, and those that did before it."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from comity.cli.files import KEY_VERSION_LENGTH, CannotRun, replace
from comity.cli.options import config_option, exit_with, load_or_exit
from comity.cli.serving import alone
from comity.config import Config, ConfigError, signing_key
from comity.net.system import SystemClock, SystemEntropy
from comity.ports import Clock, Entropy
from comity.protocol.event import decode_base64
from comity.protocol.signing import PublishedKey


@click.group("key")
def command() -> None:
    """Show the signing keys of this server, and change the one that signs."""


@command.command("list")
@config_option
def list_all(path: Path | None) -> None:
    """The key that signs now, and those that did before, each with its public half."""
    config = load_or_exit(path)
    try:
        key, old = signing_key.read(config.signing_key_file), signing_key.read_old(config.old_keys_file)
    except ConfigError as error:
        exit_with(list(error.problems))
    click.echo(f"{key.key_id}  {key.public}  signs now")
    for entry in sorted(old, key=lambda entry: -entry.valid_until_ms):
        if entry.key_id != key.key_id:
            moment = datetime.datetime.fromtimestamp(entry.valid_until_ms / 1000, datetime.UTC)
            public = signing_key.public_text(entry)
            click.echo(f"{entry.key_id}  {public}  signed until {moment:%Y-%m-%d %H:%M:%S} UTC")


@command.command("rotate")
@config_option
def rotate(path: Path | None) -> None:
    """Make a new signing key. The old one signs no more; what it has signed stays valid.

    The server must not be running.
    """
    config = load_or_exit(path)
    try:
        with alone(config.data_dir):
            new = rotated(config, SystemClock(), SystemEntropy())
    except ConfigError as error:
        exit_with(list(error.problems))
    except CannotRun as error:
        exit_with([str(error)], code=1)
    click.echo(f"{new} signs from now on: keep a copy of {config.signing_key_file} in a safe place.")


def rotated(config: Config, clock: Clock, entropy: Entropy) -> str:
    """Change the signing key; the id of the new one. Raises ConfigError, CannotRun.

    First the old key is written down as an old one, then the new one takes its place: wherever this
    is cut off, the key that is in use is known, and a second try goes on.
    """
    key, old = signing_key.read(config.signing_key_file), signing_key.read_old(config.old_keys_file)
    old = [entry for entry in old if entry.key_id != key.key_id]
    if len(old) >= signing_key.MAX_OLD_KEYS:
        raise CannotRun(
            f"{config.old_keys_file} holds {len(old)} keys, as many as can be published; take out the oldest "
            "of them first (what was signed with it can then be checked only by those who know it)"
        )
    taken = {key.key_id, *(entry.key_id for entry in old)}
    version = "a_" + entropy.token(KEY_VERSION_LENGTH)
    while f"ed25519:{version}" in taken:
        version += entropy.token(KEY_VERSION_LENGTH)
    old.append(PublishedKey(key.key_id, decode_base64(key.public), clock.now_ms(), expired=True))
    text = signing_key.render(version, entropy.bytes(32))
    try:
        replace(config.old_keys_file, signing_key.render_old(old).encode(), private=False)
        replace(config.signing_key_file, text.encode(), private=True)
    except OSError as error:
        raise CannotRun(f"the keys in {config.data_dir} cannot be written: {error.strerror}") from None
    return f"ed25519:{version}"
