"""The TLS certificate that other servers reach this one with: what we publish of it as in 2014."""

from __future__ import annotations

import re
from pathlib import Path

from comity.config.reading import ConfigError
from comity.config.tree import Config
from comity.protocol.event import decode_base64

#: A certificate with its chain has a few KiB; whatever is longer is another file.
MAX_FILE_BYTES = 1024 * 1024
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([0-9A-Za-z+/=\s]+)-----END CERTIFICATE-----")


def read(config: Config) -> bytes | None:
    """The DER of it, None where comity cannot know it: a proxy in front speaks TLS, and no file is named.

    Raises ConfigError when the file cannot be used.
    """
    path = config.federation.tls_certificate
    serving = any(listener.tls and "federation" in listener.serves for listener in config.listeners)
    if path is None and config.tls is not None and serving:
        path = config.tls.certificate
    return None if path is None else _first(path)


def _first(path: Path) -> bytes:
    """The first certificate in a PEM file, which is the server's own. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise ConfigError([f"the certificate {path} cannot be read: {error.strerror}"]) from None
    found = _PEM.search(data)
    try:
        if found is not None:
            return decode_base64("".join(found[1].decode("ascii").split()))
    except ValueError:
        pass
    raise ConfigError([f"{path} holds no certificate in PEM form"])
