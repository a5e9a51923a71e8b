"""Search (client-server §Server Side Search)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import bad_json, invalid_param, missing_param
from comity.protocol.filters import parse_room_event_filter
from comity.protocol.words import KEYS, MAX_TERM_CHARACTERS, parse_term
from comity.rooms.read.search import DEFAULT_CONTEXT, GROUP_KEYS, MAX_CONTEXT, Around, Question, Search
from comity.rooms.read.search_walk import Aim
from comity.users.rate_limits import SEARCHES, RateLimits
from comity.users.sessions import Session

#: Entries of any list of a search: there are three keys and two groupings.
MAX_LISTED = 10


class SearchApi:
    """The one route."""

    def __init__(self, search: Search, rate_limits: RateLimits) -> None:
        self._search = search
        self._rate_limits = rate_limits

    def routes(self, router: Router, guard: Guard) -> None:
        """Add it."""
        add_classic(router, "POST", "/search", self.search, guard)

    async def search(self, call: Call) -> Response:
        """POST /search."""
        categories = call.field("search_categories", dict)
        asked = _part(categories, "room_events")
        if asked is None:
            return json_response({"search_categories": {}})
        question = _question(asked, call.requester)
        self._rate_limits.check(SEARCHES, call.requester.user_id)
        found = await self._search.room_events(question, call.query("next_batch") or None)
        return json_response({"search_categories": {"room_events": found}})


def _question(asked: Mapping[str, Any], requester: Session) -> Question:
    """What is asked, checked. Raises 400 M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM."""
    term = asked.get("search_term")
    if term is None:
        raise missing_param("room_events lacks search_term")
    if not isinstance(term, str):
        raise bad_json("search_term is not a string")
    if len(term) > MAX_TERM_CHARACTERS:
        raise invalid_param(f"search_term is longer than {MAX_TERM_CHARACTERS} characters")
    keys = _listed(asked, "keys")
    if keys is not None and not all(key in KEYS for key in keys):
        raise invalid_param(f"keys may be {', '.join(KEYS)}")
    order = asked.get("order_by")
    if order not in (None, "rank", "recent"):
        raise invalid_param("order_by is neither rank nor recent")
    return Question(
        aim=Aim(
            user_id=requester.user_id,
            term=parse_term(term),
            keys=frozenset(KEYS if keys is None else keys),
            wanted=parse_room_event_filter(_part(asked, "filter") or {}),
        ),
        device_id=requester.device_id,
        by_rank=order != "recent",
        context=_around(_part(asked, "event_context")),
        include_state=_boolean(asked, "include_state"),
        group_by=_group_by(_part(asked, "groupings") or {}),
    )


def _around(asked: Mapping[str, Any] | None) -> Around | None:
    if asked is None:
        return None
    limits = []
    for name in ("before_limit", "after_limit"):
        value = asked.get(name)
        if value is None:
            value = DEFAULT_CONTEXT
        if type(value) is not int:
            raise bad_json(f"{name} is not an integer")
        if value < 0:
            raise invalid_param(f"{name} is less than 0")
        limits.append(min(value, MAX_CONTEXT))
    return Around(limits[0], limits[1], _boolean(asked, "include_profile"))


def _group_by(asked: Mapping[str, Any]) -> tuple[str, ...]:
    keys: dict[str, None] = {}
    for group in _listed(asked, "group_by") or ():
        key = group.get("key") if isinstance(group, dict) else None
        if not isinstance(key, str):
            raise bad_json("group_by has an entry without a key")
        if key not in GROUP_KEYS:
            raise invalid_param("Results can be grouped by room_id and sender")
        keys[key] = None
    return tuple(keys)


def _part(asked: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    value = asked.get(name)
    if value is not None and not isinstance(value, dict):
        raise bad_json(f"{name} is not a JSON object")
    return value


def _listed(asked: Mapping[str, Any], name: str) -> list[Any] | None:
    value = asked.get(name)
    if value is not None and not isinstance(value, list):
        raise bad_json(f"{name} is not a list")
    if value is not None and len(value) > MAX_LISTED:
        raise invalid_param(f"{name} has more than {MAX_LISTED} entries")
    return value


def _boolean(asked: Mapping[str, Any], name: str) -> bool:
    value = asked.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad_json(f"{name} is not a boolean")
    return bool(value)
