"""How often anything may be asked (client-server §Rate limiting): which limit each endpoint counts against.

The guards count, before anything is done for a request. What costs or annoys more than others is counted
where it is decided instead (`comity.users.rate_limits` has the limits).
"""

from __future__ import annotations

from functools import lru_cache

from comity.api.address import client_address
from comity.api.router import Call, Guard, path_behind_version
from comity.users.rate_limits import (
    ACCOUNT,
    ACCOUNT_DATA,
    EPHEMERAL,
    KEY_BACKUP,
    KEYS,
    MESSAGES,
    READING,
    TO_DEVICE,
    VISITORS,
    RateLimits,
)

#: Templates of routes whose limit is remembered: there are no more.
MAX_ROUTES = 1_024
#: Long polls, which pace themselves; and the end of a session, which nobody should be kept from.
FREE = frozenset({"/sync", "/org.matrix.simplified_msc3575/sync", "/events", "/logout", "/logout/all"})
#: What paths behind the version begin with -> the limit, whatever the method; the first that fits counts.
_FAMILIES = (
    ("/keys/", KEYS),
    ("/org.matrix.msc3814.v1/dehydrated_device", KEYS),
    ("/sendToDevice/", TO_DEVICE),
    ("/room_keys/", KEY_BACKUP),
    ("/rooms/{roomId}/receipt/", EPHEMERAL),
    ("/rooms/{roomId}/read_markers", EPHEMERAL),
    ("/rooms/{roomId}/typing/", EPHEMERAL),
    ("/user/{userId}/openid/", ACCOUNT),
    ("/user/", ACCOUNT_DATA),
    ("/pushrules", ACCOUNT_DATA),
    ("/pushers", ACCOUNT_DATA),
    ("/account/", ACCOUNT),
    ("/admin/", ACCOUNT),
    ("/capabilities", ACCOUNT),
    ("/delete_devices", ACCOUNT),
    ("/devices", ACCOUNT),
    ("/login/", ACCOUNT),
    ("/voip/", ACCOUNT),
    ("/directory/", MESSAGES),
    ("/publicRooms", READING),
)


@lru_cache(MAX_ROUTES)
def _limit_of(method: str, template: str) -> str | None:
    """The limit that a route counts against in its guard, if it does."""
    path = path_behind_version(template)
    if path in FREE:
        return None
    for beginning, limit in _FAMILIES:
        if path.startswith(beginning):
            return limit
    if method in ("GET", "HEAD"):
        return READING
    return EPHEMERAL if path.startswith("/presence/") else None


def is_free(call: Call) -> bool:
    """Whether a request of a user counts against no limit."""
    return _limit_of(call.request.method, call.template) is None


def check(limits: RateLimits, call: Call) -> None:
    """Count a request of a user who is known. Raises 429 M_LIMIT_EXCEEDED."""
    limit = _limit_of(call.request.method, call.template)
    if limit is not None:
        limits.check(limit, call.requester.user_id)


def check_visitor(limits: RateLimits, call: Call) -> None:
    """Count a request of whoever is at an address. Raises 429 M_LIMIT_EXCEEDED."""
    limits.check(VISITORS, client_address(call.request))


def visitor_guard(limits: RateLimits) -> Guard:
    """Anybody, as often as their address may ask."""

    async def guard(call: Call) -> None:
        check_visitor(limits, call)

    return guard
