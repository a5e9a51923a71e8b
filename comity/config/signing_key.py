"""The file of the signing key, `signing.key` in data_dir: who this server is.

One line, `ed25519 VERSION SEED`, the seed 32 bytes in unpadded Base64. The key's id is
`ed25519:VERSION`. Only its owner may read it; whoever has it can speak in this server's name.

Beside it may be `signing.old`: the keys that signed before, a line each, `ed25519 VERSION PUBLIC
EXPIRED`: the public key in unpadded Base64, and until when it signed (ms since the epoch). Without
them others could not check what was signed then; nothing in that file is secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from comity.config.reading import ConfigError
from comity.protocol.event import decode_base64, encode_base64
from comity.protocol.signing import MAX_KEYS_IN_DOCUMENT, PublishedKey, SigningKey, is_key_id

#: One line is far shorter; whatever is longer is another file.
MAX_FILE_BYTES = 1024
#: Keys that signed before: with the current one, as many as a key document may hold.
MAX_OLD_KEYS = MAX_KEYS_IN_DOCUMENT - 1
#: A line is far shorter.
MAX_OLD_FILE_BYTES = MAX_OLD_KEYS * 512


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


def render_old(keys: Iterable[PublishedKey]) -> str:
    """The text of the file of old keys."""
    lines = [
        f"ed25519 {key.key_id.partition(':')[2]} {public_text(key)} {key.valid_until_ms}\n" for key in keys
    ]
    return "".join(lines)


def read_old(path: Path) -> list[PublishedKey]:
    """The keys in that file, none if there is no such file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_OLD_FILE_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError([f"the old signing keys {path} cannot be read: {error.strerror}"]) from None
    try:
        lines = data.decode("ascii").splitlines()
        keys = [_old_key(line) for line in lines if line.strip()]
    except ValueError:
        keys = []
    if (data.strip() and not keys) or len(keys) > MAX_OLD_KEYS:
        text = (
            f"{path} is not a file of old signing keys; it has at most {MAX_OLD_KEYS} lines: ed25519, "
            "the key's version, the public key in Base64, until when it signed (ms since the epoch)"
        )
        raise ConfigError([text])
    return keys


def public_text(key: PublishedKey) -> str:
    """The public half in unpadded Base64."""
    return encode_base64(key.public)


def _old_key(line: str) -> PublishedKey:
    algorithm, version, public, expired = line.split()
    key = decode_base64(public)
    if algorithm != "ed25519" or not is_key_id(f"ed25519:{version}") or len(key) != 32:
        raise ValueError
    return PublishedKey(f"ed25519:{version}", key, int(expired), expired=True)
