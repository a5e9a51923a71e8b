"""The file of the signing key, `signing.key` in data_dir: who this server is.

One line, `ed25519 VERSION SEED`, the seed 32 bytes in unpadded Base64. The key's id is
`ed25519:VERSION`. Only its owner may read it; whoever has it can speak in this server's name.
"""

from __future__ import annotations

from pathlib import Path

from comity.config.reading import ConfigError
from comity.protocol.event import decode_base64, encode_base64
from comity.protocol.signing import SigningKey

#: One line is far shorter; whatever is longer is another file.
MAX_FILE_BYTES = 1024


def render(version: str, seed: bytes) -> str:
    """The text of the file for a 32-byte `seed`. Raises ValueError if it makes no key."""
    SigningKey(version, seed)
    return f"ed25519 {version} {encode_base64(seed)}\n"


def read(path: Path) -> SigningKey:
    """The key in that file. Raises ConfigError; no message ever holds a part of the key."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise ConfigError([f"the signing key {path} cannot be read: {error.strerror}"]) from None
    try:
        algorithm, version, seed = data.decode("ascii").split()
        if algorithm != "ed25519":
            raise ValueError
        return SigningKey(version, decode_base64(seed))
    except ValueError:
        raise ConfigError(
            [f"{path} is not a signing key; it is one line: ed25519, the key's version, its seed in Base64"]
        ) from None
