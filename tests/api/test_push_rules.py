"""Push rules, pushers and notifications (client-server §Push Notifications)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.protocol.push_rules import default_rules
from tests.api.support_users import SERVER, Answer, UserServer, at, user_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


ALICE = f"@alice:{SERVER}"


def rule(kind: str, rule_id: str, *rest: str) -> str:
    return at("pushrules", "global", kind, rule_id, *rest)


async def ids(server: UserServer, token: str, kind: str) -> list[str]:
    listed = (await server.ask("GET", "/pushrules/global/", token=token)).ok()[kind]
    return [each["rule_id"] for each in listed]


async def test_everybody_has_the_predefined_rules(server: UserServer) -> None:
    token = await server.user("alice")
    defaults = default_rules(ALICE)
    assert (await server.ask("GET", "/pushrules/", token=token)).ok() == {"global": defaults}
    assert (await server.ask("GET", "/pushrules/global/", token=token)).ok() == defaults
    data = await server.ask("GET", at("user", ALICE, "account_data", "m.push_rules"), token=token)
    assert data.ok() == {"global": defaults}
    master = (await server.ask("GET", rule("override", ".m.rule.master"), token=token)).ok()
    assert master["enabled"] is False


async def test_rules_of_ones_own_have_their_order(server: UserServer) -> None:
    token = await server.user("alice")

    async def put(name: str, query: str = "") -> Answer:
        return await server.ask("PUT", rule("override", name) + query, {"actions": ["notify"]}, token=token)

    for name, query in (("one", ""), ("two", ""), ("three", "?after=two"), ("four", "?before=one")):
        (await put(name, query)).ok()
    listed = await ids(server, token, "override")
    assert listed[:5] == [".m.rule.master", "two", "three", "four", "one"]
    (await put("one", "?before=two")).ok()
    (await put("three")).ok()
    assert (await ids(server, token, "override"))[1:5] == ["one", "two", "three", "four"]
    (await put("five", "?before=nobody")).failed(400, "M_UNKNOWN")
    (await put("five", "?after=.m.rule.master")).failed(400, "M_UNKNOWN")
    assert "five" not in await ids(server, token, "override")


async def test_a_rule_from_its_beginning_to_its_end(server: UserServer) -> None:
    token = await server.user("alice")
    path = rule("content", "cake")
    before = server.bus.position
    body: dict[str, Any] = {
        "pattern": "cake*lie",
        "actions": ["notify", {"set_tweak": "sound", "value": "x"}],
    }
    assert (await server.ask("PUT", path, body, token=token)).ok() == {}
    assert server.bus.changed([ALICE], before)
    wanted = {"rule_id": "cake", "default": False, "enabled": True, **body}
    assert (await server.ask("GET", path, token=token)).ok() == wanted
    assert (await server.ask("PUT", path + "/enabled", {"enabled": False}, token=token)).ok() == {}
    assert (await server.ask("GET", path + "/enabled", token=token)).ok() == {"enabled": False}
    # Changing a rule leaves it disabled.
    (await server.ask("PUT", path, {"pattern": "pie", "actions": []}, token=token)).ok()
    assert (await server.ask("GET", path, token=token)).ok()["enabled"] is False
    actions = {"actions": ["notify", "dont_notify", "coalesce"]}
    assert (await server.ask("PUT", path + "/actions", actions, token=token)).ok() == {}
    assert (await server.ask("GET", path + "/actions", token=token)).ok() == {"actions": ["notify"]}
    assert (await server.ask("DELETE", path, token=token)).ok() == {}
    (await server.ask("GET", path, token=token)).failed(404, "M_NOT_FOUND")


async def test_predefined_rules_can_be_changed_but_not_deleted(server: UserServer) -> None:
    token = await server.user("alice")
    path = rule("underride", ".m.rule.message")
    (await server.ask("PUT", path + "/enabled", {"enabled": False}, token=token)).ok()
    (await server.ask("PUT", path + "/actions", {"actions": []}, token=token)).ok()
    changed = (await server.ask("GET", path, token=token)).ok()
    assert (changed["enabled"], changed["actions"], changed["default"]) == (False, [], True)
    (await server.ask("DELETE", path, token=token)).failed(400, "M_INVALID_PARAM")
    assert await ids(server, token, "underride") == [
        each["rule_id"] for each in default_rules(ALICE)["underride"]
    ]


@pytest.mark.parametrize("kind", ["room", "sender", "underride", "override", "content"])
async def test_every_kind_takes_rules(server: UserServer, kind: str) -> None:
    token = await server.user("alice")
    name = {"room": "!r:example.org", "sender": "@bob:example.org"}.get(kind, "mine")
    body = {"actions": ["notify"], "pattern": "x", "conditions": [{"kind": "room_member_count", "is": "2"}]}
    (await server.ask("PUT", rule(kind, name), body, token=token)).ok()
    kept = (await server.ask("GET", rule(kind, name), token=token)).ok()
    assert ("conditions" in kept) == (kind in ("override", "underride"))
    assert ("pattern" in kept) == (kind == "content")


@pytest.mark.parametrize(
    ("kind", "name", "body", "code"),
    [
        ("other", "mine", {"actions": []}, "M_INVALID_PARAM"),
        ("override", ".mine", {"actions": []}, "M_INVALID_PARAM"),
        ("override", "a/b", {"actions": []}, "M_INVALID_PARAM"),
        ("override", "a\\b", {"actions": []}, "M_INVALID_PARAM"),
        ("override", "x" * 300, {"actions": []}, "M_INVALID_PARAM"),
        ("override", "mine", {}, "M_MISSING_PARAM"),
        ("override", "mine", {"actions": "notify"}, "M_BAD_JSON"),
        ("override", "mine", {"actions": [5]}, "M_BAD_JSON"),
        ("override", "mine", {"actions": ["a"] * 20}, "M_BAD_JSON"),
        ("override", "mine", {"actions": [], "conditions": {}}, "M_BAD_JSON"),
        ("override", "mine", {"actions": [], "conditions": [{}]}, "M_BAD_JSON"),
        ("content", "mine", {"actions": []}, "M_BAD_JSON"),
        ("content", "mine", {"actions": [], "pattern": "x" * 600}, "M_INVALID_PARAM"),
    ],
)
async def test_what_is_no_rule(
    server: UserServer, kind: str, name: str, body: dict[str, Any], code: str
) -> None:
    token = await server.user("alice")
    (await server.ask("PUT", rule(kind, name), body, token=token)).failed(400, code)
    assert (await server.ask("GET", "/pushrules/", token=token)).ok() == {"global": default_rules(ALICE)}


async def test_rules_that_are_not_there(server: UserServer) -> None:
    token = await server.user("alice")
    for method, rest, body in (
        ("GET", (), None),
        ("DELETE", (), None),
        ("GET", ("enabled",), None),
        ("PUT", ("enabled",), {"enabled": True}),
        ("GET", ("actions",), None),
        ("PUT", ("actions",), {"actions": []}),
    ):
        (await server.ask(method, rule("room", "!no", *rest), body, token=token)).failed(404, "M_NOT_FOUND")
        (await server.ask(method, rule("no", "!no", *rest), body, token=token)).failed(400, "M_INVALID_PARAM")
    master = rule("override", ".m.rule.master", "enabled")
    (await server.ask("PUT", master, {}, token=token)).failed(400, "M_MISSING_PARAM")
    (await server.ask("PUT", master, {"enabled": 1}, token=token)).failed(400, "M_BAD_JSON")


async def test_nothing_is_pushed_yet(server: UserServer) -> None:
    token = await server.user("alice")
    assert (await server.ask("GET", "/pushers", token=token)).ok() == {"pushers": []}
    delete = {"kind": None, "app_id": "a", "pushkey": "b"}
    assert (await server.ask("POST", "/pushers/set", delete, token=token)).ok() == {}
    http = {**delete, "kind": "http"}
    (await server.ask("POST", "/pushers/set", http, token=token)).failed(400, "M_UNRECOGNIZED")
    (await server.ask("POST", "/pushers/set", {}, token=token)).failed(400, "M_MISSING_PARAM")
