"""Password hashes that other programs made: bcrypt, and Argon2 at another cost.

Owns which of them are taken and how a bcrypt hash is checked; nothing here makes one. They come with
accounts from elsewhere (`comity user password --hash`) and are replaced once the password is known
(docs/decisions/0022).
"""

from __future__ import annotations

import re
import unicodedata

import argon2
import bcrypt
from argon2.exceptions import InvalidHashError

from comity.protocol.errors import invalid_param

#: `$2b$12$` and 53 characters: salt and hash. `$2x$` marks hashes of a faulty program and is not taken.
_BCRYPT = re.compile(r"\$2[aby]\$([0-3][0-9])\$[./A-Za-z0-9]{53}")
#: bcrypt reads no more of a password.
BCRYPT_BYTES = 72
#: Each step doubles the work; this many is about three seconds of one core. Others must not wait behind more.
MAX_BCRYPT_COST = 15
#: As many hashes are checked at once as `comity.users.passwords` allows: 1 GiB of memory in all.
MAX_ARGON2_MEMORY_KIB = 262_144
#: Passes over that memory, of an Argon2 hash.
MAX_ARGON2_PASSES = 20
#: Longer is no hash.
MAX_HASH_CHARACTERS = 512


def is_bcrypt(stored: str) -> bool:
    """Whether a stored hash is bcrypt's."""
    return stored.startswith("$2")


def check_hash(text: str) -> None:
    """Check a hash that is brought along. Raises 400 M_INVALID_PARAM with what is wrong with it."""
    if len(text) > MAX_HASH_CHARACTERS:
        raise invalid_param(f"A password hash has at most {MAX_HASH_CHARACTERS} characters")
    found = _BCRYPT.fullmatch(text)
    if found is not None:
        if not 4 <= int(found[1]) <= MAX_BCRYPT_COST:
            raise invalid_param(f"The cost of a bcrypt hash is from 4 to {MAX_BCRYPT_COST}")
        return
    try:
        parameters = argon2.extract_parameters(text)
    except InvalidHashError:
        raise invalid_param("A password hash is bcrypt's ($2b$…) or Argon2's ($argon2id$…)") from None
    if parameters.memory_cost > MAX_ARGON2_MEMORY_KIB or parameters.time_cost > MAX_ARGON2_PASSES:
        raise invalid_param(
            f"An Argon2 hash takes at most {MAX_ARGON2_MEMORY_KIB} KiB and {MAX_ARGON2_PASSES} passes"
        )


def counts_whole(password: bytes) -> bool:
    """Whether bcrypt reads all of a password (UTF-8)."""
    return len(password) <= BCRYPT_BYTES


def matches_bcrypt(stored: str, password: bytes) -> bool:
    """Whether a password (UTF-8) is the one of a bcrypt hash, by its first 72 bytes. It takes a while."""
    return any(_matches(stored, form) for form in _forms(password))


def _forms(password: bytes) -> list[bytes]:
    """A password as it is given, and as some servers normalised it before they made the hash."""
    try:
        text = password.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        # Too long for a password, and cut off within a character.
        return [password]
    normal = unicodedata.normalize("NFKC", text).encode("utf-8", "surrogatepass")
    return [password] if normal == password else [password, normal]


def _matches(stored: str, password: bytes) -> bool:
    found = _BCRYPT.fullmatch(stored)
    if found is None or int(found[1]) > MAX_BCRYPT_COST:
        return False
    try:
        return bcrypt.checkpw(password[:BCRYPT_BYTES], stored.encode())
    except ValueError:
        # A hash that something else has spoilt lets nobody in.
        return False
