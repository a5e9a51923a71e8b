"""The files that commands make: over another one only where that is meant, and private where they must be."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from comity.config import Config, signing_key
from comity.net.pausing import GreenletPausing
from comity.ports import Entropy
from comity.store.engines import holds_a_server

logger = logging.getLogger(__name__)

#: Characters of chance in a signing key's version; it only tells a server's own keys apart.
KEY_VERSION_LENGTH = 4


class CannotRun(Exception):
    """A command cannot do its work on this machine; the text tells the operator why, and what to do."""


def write_new(path: Path, data: bytes, *, private: bool) -> None:
    """Write a file that does not exist yet; `private` ones only their owner may read.

    Raises OSError, FileExistsError among them.
    """
    mode = 0o600 if private else 0o644
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes, *, private: bool) -> None:
    """Put a new file in the place of one that may be there, whole or not at all. Raises OSError."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    write_new(new, data, private=private)
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def make_private_folder(path: Path) -> None:
    """See to it that the folder exists; if it is new, only its owner may enter. Raises CannotRun."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CannotRun(f"the folder {path} cannot be made: {error.strerror}") from None


def new_signing_key(path: Path, entropy: Entropy) -> None:
    """Write a new signing key. Raises OSError."""
    text = signing_key.render("a_" + entropy.token(KEY_VERSION_LENGTH), entropy.bytes(32))
    write_new(path, text.encode(), private=True)


def ensure_signing_key(config: Config, entropy: Entropy) -> None:
    """See to it that there is a signing key: made for a server that never ran. Raises CannotRun."""
    key_file = config.signing_key_file
    if key_file.exists():
        return
    if holds_a_server(config.database.url, config.data_dir, GreenletPausing()):
        raise CannotRun(
            f"the signing key {key_file} is gone, but the database is there: put the key back from a "
            "backup. With a new one, other servers would not know this server again"
        )
    make_private_folder(config.data_dir)
    try:
        new_signing_key(key_file, entropy)
    except OSError as error:
        raise CannotRun(f"the signing key {key_file} cannot be written: {error.strerror}") from None
    logger.info("made a new signing key, %s: keep a copy in a safe place", key_file)
