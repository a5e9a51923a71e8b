"""Profiles (client-server §Profiles): a display name, an avatar, fields of any name.

Owns what may stand in a profile of ours. A change is carried into the rooms of the user by
`comity.users.errands`; other servers are asked for theirs by functions that are handed in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from comity.federation.errors import FederationError
from comity.federation.user_calls import UserCalls
from comity.ports import Clock
from comity.protocol.errors import MatrixError, forbidden, invalid_param, missing_param, not_found
from comity.protocol.identifiers import is_namespaced, is_server_name, server_of, split_user_id
from comity.store import accounts as stored
from comity.store import errands
from comity.store.database import Database, Tx, WriteTx
from comity.users.accounts import Accounts
from comity.users.presence import Presences
from comity.users.rate_limits import PROFILE_CHANGES, RateLimits
from comity.users.text import checked_text

DISPLAY_NAME = "displayname"
AVATAR = "avatar_url"
TIME_ZONE = "m.tz"
#: The fields that stand in membership events too.
IN_ROOMS = (DISPLAY_NAME, AVATAR)
#: client-server §Profiles: the whole profile, as JSON, is under 64 KiB.
MAX_PROFILE_BYTES = 65_536
#: client-server §Profiles: the longest name of a field.
MAX_KEY_BYTES = 255
#: Each stands in every membership event of the user, of which every room's state is full.
MAX_DISPLAY_NAME_BYTES = 1_024
MAX_AVATAR_BYTES = 1_024

#: Begins what was stored as an errand for a user (`comity.users.errands`): (user id) -> when it is done
#: as far as a request waits for it.
Follow = Callable[[str], Awaitable[None]]


def check_key(key: str) -> None:
    """Check the name of a field. Raises 400 M_KEY_TOO_LARGE or M_INVALID_PARAM."""
    if len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise MatrixError(
            400, "M_KEY_TOO_LARGE", f"The name of a profile field has at most {MAX_KEY_BYTES} bytes"
        )
    if key not in IN_ROOMS and not ("." in key and is_namespaced(key)):
        raise invalid_param(
            "A profile field is displayname, avatar_url, or has a namespace: org.example.name"
        )


def check_value(key: str, value: object) -> str | None:
    """The JSON text to store of a field's value, or None where the value means "no such field".

    Raises 400 M_BAD_JSON, M_INVALID_PARAM or M_PROFILE_TOO_LARGE.
    """
    if key == DISPLAY_NAME:
        checked_text(value, key, most=MAX_DISPLAY_NAME_BYTES, empty=True)
    elif key == AVATAR:
        text = checked_text(value, key, most=MAX_AVATAR_BYTES, empty=True)
        if text and not is_mxc_uri(text):
            raise invalid_param("avatar_url is not an mxc:// URI")
    elif key == TIME_ZONE:
        checked_text(value, key)
    if value == "" and key in IN_ROOMS:
        # COMPAT: clients have always cleared these two with an empty string.
        return None
    text = orjson.dumps(value).decode()
    if len(text.encode()) > MAX_PROFILE_BYTES:
        raise _too_large()
    return text


def is_mxc_uri(text: str) -> bool:
    """Whether `text` is `mxc://server/media-id`."""
    server, slash, media_id = text.removeprefix("mxc://").partition("/")
    plain = media_id.replace("-", "").replace("_", "")
    return (
        text.startswith("mxc://")
        and is_server_name(server)
        and bool(slash)
        and plain.isalnum()
        and plain.isascii()
    )


class Profiles:
    """The profiles of local users, and the way to those of others."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        limits: RateLimits,
        follow: Follow,
        calls: UserCalls,
        clock: Clock,
        presences: Presences,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._limits = limits
        self._follow = follow
        self._calls = calls
        self._clock = clock
        self._presences = presences

    async def local(self, user_id: str) -> dict[str, Any] | None:
        """The profile of a user of ours, {} if it is empty; None if there is no such user."""

        def read(tx: Tx) -> dict[str, str] | None:
            account = stored.user(tx, user_id)
            return None if account is None or account.deactivated else stored.profile(tx, user_id)

        fields = await self._database.read(read)
        return None if fields is None else {field: orjson.loads(value) for field, value in fields.items()}

    async def get(self, user_id: str, field: str | None = None, *, may_ask: bool = True) -> dict[str, Any]:
        """A profile, or one field of it (as an object), of any user anywhere.

        `may_ask` says whether another server may be asked for it. Raises 400 M_INVALID_PARAM,
        403 M_FORBIDDEN, 404 M_NOT_FOUND.
        """
        if split_user_id(user_id) is None:
            raise invalid_param("This is not a user id")
        if field is not None:
            check_key(field)
        if self._accounts.is_local(user_id):
            return await self.answer(user_id, field)
        if not may_ask:
            raise forbidden("Only users of this server may look up profiles of other servers")
        return _checked_remote(await self._ask(user_id, field), field)

    async def _ask(self, user_id: str, field: str | None) -> Mapping[str, Any]:
        """Another server's user's profile. Raises 403 M_FORBIDDEN, 404 M_NOT_FOUND, 502 M_UNKNOWN."""
        server = server_of(user_id)
        try:
            return await self._calls.query_profile(server, user_id, field)
        except FederationError as error:
            if error.status == 404:
                raise not_found("There is no such profile") from None
            if error.status == 403 and error.code == "M_FORBIDDEN":
                # server-server §Querying for information: it may deny look-ups.
                raise forbidden(f"{server} does not tell this profile") from None
            raise MatrixError(502, "M_UNKNOWN", f"{server} could not be asked", detail=str(error)) from None

    async def answer(self, user_id: str, field: str | None) -> dict[str, Any]:
        """The profile of a user of ours, or one field: also the answer of `GET /query/profile`.

        server-server §Querying for information. Raises 404 M_NOT_FOUND.
        """
        profile = await self.local(user_id) if self._accounts.is_local(user_id) else None
        if profile is None:
            raise not_found("There is no such user here")
        if field is None:
            return profile
        if field not in profile:
            raise not_found("The user's profile has no such field")
        return {field: profile[field]}

    async def put(self, user_id: str, key: str, body: Mapping[str, Any]) -> None:
        """Set a field; the request body has one member, of its name.

        Raises 400 M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM, M_KEY_TOO_LARGE or
        M_PROFILE_TOO_LARGE; 429 M_LIMIT_EXCEEDED.
        """
        check_key(key)
        if key not in body:
            raise missing_param(f"The request body lacks {key}")
        await self._change(user_id, key, check_value(key, body[key]))

    async def delete(self, user_id: str, key: str) -> None:
        """Remove a field, if it is there. Raises 400 M_INVALID_PARAM, M_KEY_TOO_LARGE, 429."""
        check_key(key)
        await self._change(user_id, key, None)

    async def _change(self, user_id: str, key: str, value: str | None) -> None:
        self._limits.check(PROFILE_CHANGES, user_id)
        now = self._clock.now_ms()

        def store(tx: WriteTx) -> bool:
            fields = stored.profile(tx, user_id)
            if fields.get(key) == value:
                return False
            if key in IN_ROOMS:
                errands.put(tx, user_id, errands.PROFILE, now)
            if value is None:
                stored.delete_profile_field(tx, user_id, key)
                return True
            fields[key] = value
            size = 2 + sum(len(orjson.dumps(name)) + len(text.encode()) + 2 for name, text in fields.items())
            if size >= MAX_PROFILE_BYTES:
                raise _too_large()
            stored.put_profile_field(tx, user_id, key, value)
            return True

        changed = await self._database.write(store)
        if changed and key in IN_ROOMS:
            await self._presences.rename(user_id, await member_content(self, user_id))
            await self._follow(user_id)


async def member_content(profiles: Profiles, user_id: str) -> dict[str, Any]:
    """What a membership of a local user carries of their profile."""
    profile = await profiles.local(user_id) or {}
    return {name: profile[name] for name in IN_ROOMS if name in profile}


def _checked_remote(found: Mapping[str, Any], field: str | None) -> dict[str, Any]:
    """What is handed on of another server's answer: bounded, and texts where texts belong."""
    profile = {
        key: value
        for key, value in found.items()
        if (field is None or key == field) and not (key in IN_ROOMS and not isinstance(value, str))
    }
    if len(orjson.dumps(profile)) > MAX_PROFILE_BYTES:
        raise MatrixError(502, "M_UNKNOWN", "The user's server gave a profile that is too large")
    if field is not None and field not in profile:
        raise not_found("The user's profile has no such field")
    return profile


def _too_large() -> MatrixError:
    return MatrixError(400, "M_PROFILE_TOO_LARGE", f"A profile is smaller than {MAX_PROFILE_BYTES} bytes")
