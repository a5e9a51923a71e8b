"""Accounts at rest: users, their devices, registration tokens, profiles.

Plain functions over an open transaction. Passwords and tokens arrive hashed; nothing here
knows either, nor whether somebody may do what is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from comity.store import user_directory
from comity.store.database import Tx
from comity.store.lists import parts


@dataclass(frozen=True, slots=True)
class User:
    """An account of this server. `password_hash` is None if no password opens it."""

    user_id: str
    password_hash: str | None
    admin: bool
    created_at: int
    deactivated: bool


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a user; times in ms since the epoch."""

    device_id: str
    display_name: str | None
    created_at: int
    last_seen_at: int | None
    last_seen_ip: str | None


@dataclass(frozen=True, slots=True)
class RegistrationToken:
    """A token that lets people register: None is "without limit" and "for ever"."""

    token: str
    uses_allowed: int | None
    used: int
    expires_at: int | None

    def is_valid(self, now_ms: int) -> bool:
        """Whether it may be used once more at `now_ms`."""
        return (self.uses_allowed is None or self.used < self.uses_allowed) and (
            self.expires_at is None or now_ms < self.expires_at
        )


# -- users

#: The field of a profile by which people are found.
_DISPLAY_NAME = "displayname"
_USER = "user_id, password_hash, admin, created_at, deactivated"


def insert_user(tx: Tx, user_id: str, password_hash: str | None, *, admin: bool, now_ms: int) -> bool:
    """Create an account; False if that user id was ever taken."""
    if not tx.changed(
        "INSERT INTO users (user_id, password_hash, admin, created_at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (user_id) DO NOTHING",
        (user_id, password_hash, int(admin), now_ms),
    ):
        return False
    user_directory.name_ours(tx, user_id, None, None, is_new=True)
    return True


def user(tx: Tx, user_id: str) -> User | None:
    """The account of that id."""
    row = tx.one(f"SELECT {_USER} FROM users WHERE user_id = ?", (user_id,))
    return User(row[0], row[1], bool(row[2]), row[3], bool(row[4])) if row else None


def users(tx: Tx) -> list[User]:
    """Every account, by user id."""
    return [
        User(row[0], row[1], bool(row[2]), row[3], bool(row[4]))
        for row in tx.all(f"SELECT {_USER} FROM users ORDER BY user_id")
    ]


def set_password_hash(tx: Tx, user_id: str, password_hash: str | None) -> None:
    """Replace the password; None lets no password in."""
    tx.run("UPDATE users SET password_hash = ? WHERE user_id = ?", (password_hash, user_id))


def replace_password_hash(tx: Tx, user_id: str, old: str, new: str) -> bool:
    """Replace a password hash if it is still `old`; whether it was."""
    return (
        tx.changed(
            "UPDATE users SET password_hash = ? WHERE user_id = ? AND password_hash = ?", (new, user_id, old)
        )
        > 0
    )


def has_password_hash(tx: Tx, user_id: str, expected: str | None) -> bool:
    """Whether an account in use has that password hash still, or, for None, has none."""
    row = tx.one("SELECT password_hash FROM users WHERE user_id = ? AND deactivated = 0", (user_id,))
    return row is not None and row[0] == expected


def set_admin(tx: Tx, user_id: str, *, admin: bool) -> None:
    """Make an account an administrator's, or not."""
    tx.run("UPDATE users SET admin = ? WHERE user_id = ?", (int(admin), user_id))


def deactivate(tx: Tx, user_id: str) -> None:
    """End an account: its password, its profile; its name stays taken."""
    tx.run("UPDATE users SET deactivated = 1, password_hash = NULL WHERE user_id = ?", (user_id,))
    user_directory.forget_ours(tx, user_id, profile(tx, user_id).get(_DISPLAY_NAME))
    tx.run("DELETE FROM profiles WHERE user_id = ?", (user_id,))


# -- devices

_DEVICE = "device_id, display_name, created_at, last_seen_at, last_seen_ip"


def insert_device(tx: Tx, user_id: str, device_id: str, display_name: str | None, now_ms: int) -> bool:
    """Create a device; False, and nothing changed, if the user has it already."""
    return (
        tx.changed(
            "INSERT INTO devices (user_id, device_id, display_name, created_at) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (user_id, device_id) DO NOTHING",
            (user_id, device_id, display_name, now_ms),
        )
        > 0
    )


def device(tx: Tx, user_id: str, device_id: str) -> Device | None:
    """One device of a user."""
    row = tx.one(
        f"SELECT {_DEVICE} FROM devices WHERE user_id = ? AND device_id = ?",
        (user_id, device_id),
    )
    return Device(*row) if row else None


def devices(tx: Tx, user_id: str) -> list[Device]:
    """Every device of a user, oldest first."""
    rows = tx.all(
        f"SELECT {_DEVICE} FROM devices WHERE user_id = ? ORDER BY created_at, device_id",
        (user_id,),
    )
    return [Device(*row) for row in rows]


def set_device_name(tx: Tx, user_id: str, device_id: str, display_name: str) -> bool:
    """Name a device; False if there is none."""
    return (
        tx.changed(
            "UPDATE devices SET display_name = ? WHERE user_id = ? AND device_id = ?",
            (display_name, user_id, device_id),
        )
        > 0
    )


def touch_device(tx: Tx, user_id: str, device_id: str, now_ms: int, address: str) -> None:
    """A request came from the device."""
    tx.run(
        "UPDATE devices SET last_seen_at = ?, last_seen_ip = ? WHERE user_id = ? AND device_id = ?",
        (now_ms, address, user_id, device_id),
    )


def delete_device(tx: Tx, user_id: str, device_id: str) -> None:
    """Delete a device; its tokens are another module's (`comity.store.sessions`)."""
    tx.run("DELETE FROM devices WHERE user_id = ? AND device_id = ?", (user_id, device_id))


# -- registration tokens


def put_registration_token(tx: Tx, token: str, uses_allowed: int | None, expires_at: int | None) -> bool:
    """Create a registration token; False if it exists."""
    return (
        tx.changed(
            "INSERT INTO registration_tokens (token, uses_allowed, expires_at) VALUES (?, ?, ?) "
            "ON CONFLICT (token) DO NOTHING",
            (token, uses_allowed, expires_at),
        )
        > 0
    )


def registration_token(tx: Tx, token: str) -> RegistrationToken | None:
    """The registration token of that text."""
    row = tx.one(
        "SELECT token, uses_allowed, used, expires_at FROM registration_tokens WHERE token = ?", (token,)
    )
    return RegistrationToken(*row) if row else None


def registration_tokens(tx: Tx) -> list[RegistrationToken]:
    """Every registration token."""
    rows = tx.all("SELECT token, uses_allowed, used, expires_at FROM registration_tokens ORDER BY token")
    return [RegistrationToken(*row) for row in rows]


def use_registration_token(tx: Tx, token: str, now_ms: int) -> bool:
    """Count one use; False if the token is unknown, used up or expired."""
    return (
        tx.changed(
            "UPDATE registration_tokens SET used = used + 1 WHERE token = ? "
            "AND (uses_allowed IS NULL OR used < uses_allowed) AND (expires_at IS NULL OR expires_at > ?)",
            (token, now_ms),
        )
        > 0
    )


def delete_registration_token(tx: Tx, token: str) -> bool:
    """Delete a registration token; False if there is none."""
    return tx.changed("DELETE FROM registration_tokens WHERE token = ?", (token,)) > 0


# -- profiles


def profile(tx: Tx, user_id: str) -> dict[str, str]:
    """field -> JSON text of its value."""
    return {
        row[0]: row[1] for row in tx.all("SELECT field, value FROM profiles WHERE user_id = ?", (user_id,))
    }


def profiles(tx: Tx, user_ids: Iterable[str], fields: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """user id -> field -> JSON text, for some fields of many users."""
    wanted = list(dict.fromkeys(user_ids))
    found: dict[str, dict[str, str]] = {}
    for marks, part in parts(wanted):
        kinds = ",".join("?" * len(fields))
        rows = tx.all(
            f"SELECT user_id, field, value FROM profiles WHERE user_id IN ({marks}) AND field IN ({kinds})",
            [*part, *fields],
        )
        for user_id, field, value in rows:
            found.setdefault(user_id, {})[field] = value
    return found


def put_profile_field(tx: Tx, user_id: str, field: str, value: str) -> None:
    """Set a field; `value` is JSON text."""
    if field == _DISPLAY_NAME:
        user_directory.name_ours(tx, user_id, profile(tx, user_id).get(field), value)
    tx.run(
        "INSERT INTO profiles (user_id, field, value) VALUES (?, ?, ?) "
        "ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value",
        (user_id, field, value),
    )


def delete_profile_field(tx: Tx, user_id: str, field: str) -> None:
    """Remove a field, if it is there."""
    if field == _DISPLAY_NAME:
        user_directory.name_ours(tx, user_id, profile(tx, user_id).get(field), None)
    tx.run("DELETE FROM profiles WHERE user_id = ? AND field = ?", (user_id, field))
