"""Whom a server talks to: the operator's lists, and rooms' access control lists at every endpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.federation.server_lists import ServerLists
from tests.api.neighbours import ask_as, name_of, neighbours, refusal, settle
from tests.api.support_users import at

ONE, TWO = name_of(1), name_of(2)
UNWELCOME = "does not let it talk to"


@pytest.mark.parametrize(
    ("allow", "deny", "server", "welcome"),
    [
        ([], [], "evil.example", True),
        ([], ["evil.example"], "evil.example", False),
        ([], ["evil.example"], "EVIL.example:8448", False),
        ([], ["evil.example:8448"], "evil.example:8448", False),
        ([], ["evil.example:8448"], "evil.example", True),
        ([], ["*.evil.example"], "a.evil.example", False),
        ([], ["*.evil.example"], "evil.example", True),
        ([], ["evi?.example"], "evil.example", False),
        (["good.example"], [], "good.example", True),
        (["good.example"], [], "good.example:1", True),
        (["good.example"], [], "evil.example", False),
        (["*.example"], ["evil.*"], "evil.example", False),
        (["*.example"], ["evil.*"], "good.example", True),
        (["*"], [], "no name!", False),
        ([], ["2001:db8::1", "[[]*"], "[2001:db8::1]", True),
        ([], ["[2001:db8::1]"], "[2001:db8::1]:99", False),
    ],
)
def test_who_is_welcome(allow: list[str], deny: list[str], server: str, welcome: bool) -> None:
    lists = ServerLists(allow, deny)
    assert lists.welcomes(server) is welcome
    assert lists.welcomes(server) is welcome


@pytest.mark.parametrize("setting", [f'deny_servers = ["{TWO}"]', 'allow_servers = ["*.example"]'])
async def test_who_is_not_welcome_is_neither_asked_nor_answered(tmp_path: Path, setting: str) -> None:
    async with neighbours(tmp_path, p1=setting) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        ours, theirs = await alice.create(preset="public_chat"), await bob.create(preset="public_chat")
        assert await refusal(ask_as(there, ONE, "GET", f"/v1/make_join/{ours}/{bob.user_id}")) == (
            403,
            "M_FORBIDDEN",
        )
        assert await refusal(ask_as(there, ONE, "PUT", "/v1/send/t1", {"pdus": []})) == (403, "M_FORBIDDEN")
        refused = await alice.ask("POST", at("join", theirs), {}, via=TWO)
        assert UNWELCOME in refused.failed(403, "M_FORBIDDEN")["error"]
        refused = await alice.ask("POST", at("rooms", ours, "invite"), {"user_id": bob.user_id})
        assert UNWELCOME in refused.failed(403, "M_FORBIDDEN")["error"]
        assert (await bob.ask("POST", at("join", ours), {}, via=ONE)).status == 403
        await settle(here, there)


async def test_a_server_that_an_acl_denies_is_refused_everywhere(tmp_path: Path) -> None:
    """server-server §Server Access Control Lists: every endpoint that must be protected."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create(preset="public_chat")
        await bob.join(room_id, ONE)
        event_id = await alice.say(room_id, "hello")
        acl = {"allow": ["*"], "allow_ip_literals": False}
        await alice.set_state(room_id, "m.room.server_acl", acl)
        user_id = bob.user_id
        for method, path, content, query in (
            ("GET", f"/v1/make_join/{room_id}/{user_id}", None, {"ver": "12"}),
            ("GET", f"/v1/make_leave/{room_id}/{user_id}", None, {}),
            ("GET", f"/v1/make_knock/{room_id}/{user_id}", None, {"ver": "12"}),
            ("PUT", f"/v1/send_join/{room_id}/{event_id}", {}, {}),
            ("PUT", f"/v2/send_join/{room_id}/{event_id}", {}, {}),
            ("PUT", f"/v1/send_leave/{room_id}/{event_id}", {}, {}),
            ("PUT", f"/v2/send_leave/{room_id}/{event_id}", {}, {}),
            ("PUT", f"/v1/send_knock/{room_id}/{event_id}", {}, {}),
            ("GET", f"/v1/state/{room_id}", None, {"event_id": event_id}),
            ("GET", f"/v1/state_ids/{room_id}", None, {"event_id": event_id}),
            ("GET", f"/v1/backfill/{room_id}", None, {"v": event_id, "limit": 5}),
            ("GET", f"/v1/event_auth/{room_id}/{event_id}", None, {}),
            ("GET", f"/v1/event/{event_id}", None, {}),
            (
                "POST",
                f"/v1/get_missing_events/{room_id}",
                {"earliest_events": [], "latest_events": [event_id]},
                {},
            ),
            ("GET", f"/v1/timestamp_to_event/{room_id}", None, {"ts": 1, "dir": "f"}),
        ):
            answer = await refusal(ask_as(there, ONE, method, path, content, **query))
            assert answer == (403, "M_FORBIDDEN"), path
