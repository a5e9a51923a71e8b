"""Backups of the keys of encrypted sessions, of our users (client-server §Server-side key backups).

What is backed up is encrypted for its owner; nothing here can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from comity.protocol.errors import (
    MatrixError,
    bad_json,
    invalid_param,
    missing_param,
    not_found,
    too_large,
)
from comity.protocol.identifiers import is_room_id
from comity.store import key_backup as stored
from comity.store.database import Database, Tx, WriteTx
from comity.store.key_backup import BackedUpKey, Backup
from comity.users.text import checked_text

#: Versions that a user has at once. Clients make one when somebody resets their encryption, and delete
#: the one before it; some do not.
MAX_VERSIONS = 50
#: Keys in one upload, which is one write; clients send a hundred or two.
MAX_AT_ONCE = 10_000
#: The JSON of one key: it takes about 800 bytes.
MAX_KEY_BYTES = 16 * 1024
#: Keys of one user in all versions: decades of busy rooms. And the JSON of those: a client asks for
#: all of them in one answer, which is made in memory.
MAX_KEYS = 200_000
MAX_BYTES = 192 << 20
#: The JSON of `auth_data`: a public key and some signatures.
MAX_AUTH_DATA_BYTES = 64 * 1024
#: Keys that are read at one go, so that others get their turn between.
PAGE = 2_000
#: What one integer of a key may be: what JSON can tell exactly.
MAX_INTEGER = 2**53 - 1
#: Digits of a version.
MAX_DIGITS = 15


class KeyBackups:
    """The backups of local users."""

    def __init__(self, database: Database, server_name: str) -> None:
        self._database = database
        #: Whom to turn to where a limit is met: the specification wants a URI.
        self._info_uri = f"https://{server_name}/.well-known/matrix/support"

    # -- versions

    async def create(self, user_id: str, body: Mapping[str, Any]) -> str:
        """`POST /room_keys/version`: the new version, which is the current one from now on.

        Raises 400 M_MISSING_PARAM, M_BAD_JSON or M_INVALID_PARAM, 403 M_USER_LIMIT_EXCEEDED.
        """
        algorithm, auth_data = _configuration(body)

        def store(tx: WriteTx) -> int:
            if stored.count_versions(tx, user_id) >= MAX_VERSIONS:
                raise self._limit(f"A user has at most {MAX_VERSIONS} backups here: delete an old one")
            return stored.create(tx, user_id, algorithm, auth_data)

        return str(await self._database.write(store))

    async def info(self, user_id: str, version: str | None) -> dict[str, Any]:
        """A version, or the current one (None), as it is told. Raises 404 M_NOT_FOUND."""

        def read(tx: Tx) -> Backup | None:
            return stored.current(tx, user_id) if version is None else _find(tx, user_id, version)

        backup = await self._database.look_up(read)
        if backup is None:
            raise not_found("No current backup version")
        return {
            "algorithm": backup.algorithm,
            "auth_data": orjson.Fragment(backup.auth_data),
            "version": str(backup.version),
            **_state(backup),
        }

    async def update(self, user_id: str, version: str, body: Mapping[str, Any]) -> None:
        """`PUT /room_keys/version/{version}`: other `auth_data`.

        Raises 400 as `create`, and M_INVALID_PARAM for another algorithm or version; 404 M_NOT_FOUND.
        """
        algorithm, auth_data = _configuration(body)
        if body.get("version", version) != version:
            raise invalid_param("The version in the body is not the one in the path")

        def store(tx: WriteTx) -> None:
            backup = _find(tx, user_id, version)
            if backup.algorithm != algorithm:
                raise invalid_param("The algorithm is not the one of the backup: make a new one")
            stored.set_auth_data(tx, user_id, backup.version, auth_data)

        await self._database.write(store)

    async def delete(self, user_id: str, version: str) -> None:
        """`DELETE /room_keys/version/{version}`: also of one that is gone. Raises 404 for what never was."""
        number = _number(version)

        def store(tx: WriteTx) -> None:
            if not 0 < number <= stored.last_version(tx, user_id):
                raise not_found("Unknown backup version")
            if stored.backup(tx, user_id, number) is not None:
                stored.delete(tx, user_id, number)

        await self._database.write(store)

    # -- keys

    async def put(self, user_id: str, version: str, rooms: Mapping[str, Any]) -> dict[str, Any]:
        """Store keys: room id -> {"sessions": session id -> key}; the `etag` and `count` after it.

        Of a session that has a key already, the better one is kept. Raises 400 M_BAD_JSON or
        M_INVALID_PARAM, 403 M_WRONG_ROOM_KEYS_VERSION or M_USER_LIMIT_EXCEEDED, 404, 413.
        """
        by_room = _checked(rooms)

        def store(tx: WriteTx) -> Backup:
            backup = stored.current(tx, user_id)
            if backup is None:
                raise not_found("Unknown backup version")
            if str(backup.version) != version:
                raise MatrixError(
                    403,
                    "M_WRONG_ROOM_KEYS_VERSION",
                    "Keys can be stored in the current backup alone",
                    extra={"current_version": str(backup.version)},
                )
            self._put(tx, user_id, backup.version, by_room)
            return stored.backup(tx, user_id, backup.version) or backup

        return _state(await self._database.write(store))

    def _put(
        self, tx: WriteTx, user_id: str, version: int, by_room: Mapping[str, Mapping[str, BackedUpKey]]
    ) -> None:
        better: list[BackedUpKey] = []
        count = size = 0
        for room_id, sessions in by_room.items():
            held = {key.session_id: key for key in stored.held(tx, user_id, version, room_id, sessions)}
            for session_id, key in sessions.items():
                old = held.get(session_id)
                if old is not None and _rank(key) <= _rank(old):
                    continue
                better.append(key)
                count += old is None
                size += len(key.json) - (0 if old is None else len(old.json))
        if not better:
            return
        keys, total = stored.sizes(tx, user_id)
        if count and keys + count > MAX_KEYS:
            raise self._limit(f"A user's backups hold at most {MAX_KEYS} keys here")
        if size > 0 and total + size > MAX_BYTES:
            raise self._limit(f"A user's backups hold at most {MAX_BYTES} bytes here")
        stored.put(tx, user_id, version, better)
        stored.count_change(tx, user_id, version, count, size)

    async def delete_keys(
        self, user_id: str, version: str, room_id: str | None = None, session_id: str | None = None
    ) -> dict[str, Any]:
        """Delete the keys of a version, a room, a session; the `etag` and `count` after it.

        Raises 404 M_NOT_FOUND.
        """

        def store(tx: WriteTx) -> Backup:
            backup = _find(tx, user_id, version)
            stored.delete_keys(tx, user_id, backup.version, room_id, session_id)
            return _find(tx, user_id, version)

        return _state(await self._database.write(store))

    async def key(self, user_id: str, version: str, room_id: str, session_id: str) -> orjson.Fragment:
        """The key of one session. Raises 404 M_NOT_FOUND."""

        def read(tx: Tx) -> list[BackedUpKey]:
            return stored.held(tx, user_id, _find(tx, user_id, version).version, room_id, [session_id])

        found = await self._database.read(read)
        if not found:
            raise not_found("Key not found")
        return orjson.Fragment(found[0].json)

    async def keys(
        self, user_id: str, version: str, room_id: str | None = None
    ) -> dict[str, dict[str, dict[str, orjson.Fragment]]]:
        """room id -> {"sessions": session id -> key} of a version, or of one room. Raises 404.

        It is read in parts: a key that changes meanwhile is told as it was or as it is.
        """
        rooms: dict[str, dict[str, dict[str, orjson.Fragment]]] = {}
        after = ("", "")
        while True:

            def read(tx: Tx, after: tuple[str, str] = after) -> list[BackedUpKey]:
                number = _find(tx, user_id, version).version
                return stored.keys_after(tx, user_id, number, room_id, after, PAGE)

            found = await self._database.read(read)
            for key in found:
                sessions = rooms.setdefault(key.room_id, {"sessions": {}})["sessions"]
                sessions[key.session_id] = orjson.Fragment(key.json)
            if len(found) < PAGE:
                return rooms
            after = (found[-1].room_id, found[-1].session_id)

    def _limit(self, text: str) -> MatrixError:
        """client-server §Common error codes."""
        return MatrixError(403, "M_USER_LIMIT_EXCEEDED", text, extra={"info_uri": self._info_uri})


def _number(version: str) -> int:
    """The number that a version is; 0 for what is none of ours."""
    is_number = version.isascii() and version.isdigit() and len(version) <= MAX_DIGITS
    return int(version) if is_number and version[0] != "0" else 0


def _find(tx: Tx, user_id: str, version: str) -> Backup:
    backup = stored.backup(tx, user_id, _number(version))
    if backup is None:
        raise not_found("Unknown backup version")
    return backup


def _state(backup: Backup) -> dict[str, Any]:
    return {"etag": str(backup.etag), "count": backup.count}


def _configuration(body: Mapping[str, Any]) -> tuple[str, str]:
    """(algorithm, JSON text of `auth_data`). Raises 400."""
    for name in ("algorithm", "auth_data"):
        if body.get(name) is None:
            raise missing_param(f"The request body lacks {name}")
    algorithm, auth_data = checked_text(body["algorithm"], "algorithm"), body["auth_data"]
    if not isinstance(auth_data, dict):
        raise bad_json("auth_data is not a JSON object")
    text = orjson.dumps(auth_data)
    if len(text) > MAX_AUTH_DATA_BYTES:
        raise invalid_param(f"auth_data has more than {MAX_AUTH_DATA_BYTES} bytes")
    return algorithm, text.decode()


def _rank(key: BackedUpKey) -> tuple[bool, int, int]:
    """The better of two keys has the greater one; of equals, the first that came stays."""
    return key.is_verified, -key.first_message_index, -key.forwarded_count


def _checked(rooms: Mapping[str, Any]) -> dict[str, dict[str, BackedUpKey]]:
    """room id -> session id -> key, of an upload. Raises 400, 413."""
    by_room: dict[str, dict[str, BackedUpKey]] = {}
    for room_id, part in rooms.items():
        sessions = part.get("sessions") if isinstance(part, dict) else None
        if not isinstance(sessions, dict):
            raise bad_json("A room's part of the keys is no object with sessions")
        if not is_room_id(room_id):
            raise invalid_param("There are keys of what is not a room id")
        by_room[room_id] = dict(_sessions(room_id, sessions))
    if sum(len(sessions) for sessions in by_room.values()) > MAX_AT_ONCE:
        raise too_large(f"There are more than {MAX_AT_ONCE} keys in one upload")
    return by_room


def _sessions(room_id: str, sessions: Mapping[str, Any]) -> Iterator[tuple[str, BackedUpKey]]:
    for session_id, key in sessions.items():
        if not isinstance(key, dict):
            raise bad_json("A key is not a JSON object")
        index, forwarded = _count(key.get("first_message_index")), _count(key.get("forwarded_count"))
        verified, data = key.get("is_verified"), key.get("session_data")
        if not isinstance(verified, bool) or not isinstance(data, dict):
            raise bad_json("A key lacks is_verified, a boolean, or session_data, an object")
        if index is None or forwarded is None:
            raise bad_json("A key lacks first_message_index or forwarded_count, integers from 0 on")
        kept = {
            "first_message_index": index,
            "forwarded_count": forwarded,
            "is_verified": verified,
            "session_data": data,
        }
        text = orjson.dumps(kept)
        if len(text) > MAX_KEY_BYTES:
            raise too_large(f"A key has more than {MAX_KEY_BYTES} bytes")
        name = checked_text(session_id, "A session id")
        yield name, BackedUpKey(room_id, name, verified, index, forwarded, text.decode())


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_INTEGER else None
