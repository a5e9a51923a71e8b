"""client-server §Room History Visibility, rule by rule."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from comity.protocol.event import Event
from comity.protocol.room_versions import V11
from comity.protocol.visibility import (
    INVITED,
    JOINED,
    SHARED,
    WORLD_READABLE,
    History,
    ServerView,
    UserView,
    history_at,
    history_visibility,
    server_may_see,
    user_may_see,
)

VALUES = (WORLD_READABLE, SHARED, INVITED, JOINED)
MEMBERSHIPS = (None, "join", "invite", "leave", "ban", "knock")

#: (visibility, membership at the event, joined later) -> may see; what is not here may not.
ALLOWED = {
    *((WORLD_READABLE, membership, later) for membership in MEMBERSHIPS for later in (False, True)),
    *((value, "join", later) for value in VALUES for later in (False, True)),
    *((SHARED, membership, True) for membership in MEMBERSHIPS),
    *((INVITED, "invite", later) for later in (False, True)),
}


def always(value: str) -> History:
    return History(value, value)


@pytest.mark.parametrize(
    ("value", "membership", "later"), list(itertools.product(VALUES, MEMBERSHIPS, (False, True)))
)
def test_users(value: str, membership: str | None, later: bool) -> None:
    assert user_may_see(always(value), UserView(membership, later)) == ((value, membership, later) in ALLOWED)


@pytest.mark.parametrize(
    ("value", "joined", "invited", "later"), list(itertools.product(VALUES, *[(False, True)] * 3))
)
def test_a_server_may_see_what_one_of_its_users_may(
    value: str, joined: bool, invited: bool, later: bool
) -> None:
    memberships = [None, *(["join"] if joined else []), *(["invite"] if invited else [])]
    some_user = any((value, membership, later) in ALLOWED for membership in memberships)
    assert server_may_see(always(value), ServerView(joined, invited, later)) == some_user


@pytest.mark.parametrize(("before", "after"), list(itertools.product(VALUES, VALUES)))
@pytest.mark.parametrize("membership", MEMBERSHIPS)
@pytest.mark.parametrize("later", [False, True])
def test_a_change_of_visibility_is_seen_under_either(
    before: str, after: str, membership: str | None, later: bool
) -> None:
    view = UserView(membership, later)
    either = user_may_see(always(before), view) or user_may_see(always(after), view)
    assert user_may_see(History(before, after), view) == either


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("membership", MEMBERSHIPS)
def test_ones_own_membership_is_seen(value: str, membership: str | None) -> None:
    assert user_may_see(always(value), UserView(membership, joined_later=False, is_own_membership=True))
    assert server_may_see(always(value), ServerView(False, False, False, is_own_membership=True))


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (None, SHARED),
        ({}, SHARED),
        ({"history_visibility": "nonsense"}, SHARED),
        ({"history_visibility": None}, SHARED),
        ({"history_visibility": ["joined"]}, SHARED),
        ({"history_visibility": {}}, SHARED),
        *(({"history_visibility": value}, value) for value in VALUES),
    ],
)
def test_what_is_not_understood_is_shared(content: dict[str, Any] | None, value: str) -> None:
    assert history_visibility(content) == value


def event(event_type: str, state_key: str | None, content: dict[str, Any]) -> Event:
    source: dict[str, Any] = {
        "type": event_type,
        "sender": "@a:domain",
        "room_id": "!r:domain",
        "content": content,
        "depth": 1,
        "origin_server_ts": 1,
        "prev_events": [],
        "auth_events": [],
        "hashes": {"sha256": ""},
        "signatures": {},
    }
    return Event(V11, source if state_key is None else {**source, "state_key": state_key})


def test_the_history_at_an_event() -> None:
    joined = {"history_visibility": JOINED}
    change = event("m.room.history_visibility", "", {"history_visibility": WORLD_READABLE})
    assert history_at(change, joined) == History(JOINED, WORLD_READABLE)
    assert history_at(change, None) == History(SHARED, WORLD_READABLE)
    # Neither a message of that type nor one with another state key changes anything.
    for other in (
        event("m.room.history_visibility", None, {"history_visibility": WORLD_READABLE}),
        event("m.room.history_visibility", "x", {"history_visibility": WORLD_READABLE}),
        event("m.room.message", None, {"history_visibility": WORLD_READABLE}),
    ):
        assert history_at(other, joined) == History(JOINED, JOINED)
