"""Profiles (client-server §Profiles)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.protocol.errors import MatrixError
from tests.api.support_users import SERVER, UserServer, at, user_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


ALICE = f"@alice:{SERVER}"


def field(name: str, user_id: str = ALICE) -> str:
    return at("profile", user_id, name)


async def test_a_profile_is_empty_then_what_the_user_says(server: UserServer) -> None:
    token = await server.user("alice")
    assert (await server.ask("GET", at("profile", ALICE))).ok() == {}
    fields = {
        "displayname": "Alice",
        "avatar_url": "mxc://example.org/abc_DEF-1",
        "m.tz": "Europe/London",
        "org.example.job": {"title": None, "years": 2.5},
    }
    for name, value in fields.items():
        assert (await server.ask("PUT", field(name), {name: value}, token=token)).ok() == {}
        assert (await server.ask("GET", field(name))).ok() == {name: value}
    assert (await server.ask("GET", at("profile", ALICE))).ok() == fields
    for name in fields:
        assert (await server.ask("DELETE", field(name), token=token)).ok() == {}
        (await server.ask("GET", field(name))).failed(404, "M_NOT_FOUND")
    assert (await server.ask("DELETE", field("displayname"), token=token)).ok() == {}
    assert (await server.ask("GET", at("profile", ALICE))).ok() == {}


async def test_name_and_avatar_go_into_the_rooms_when_they_change(server: UserServer) -> None:
    token = await server.user("alice")
    for _ in range(2):
        await server.ask("PUT", field("displayname"), {"displayname": "Alice"}, token=token)
    await server.ask("PUT", field("m.tz"), {"m.tz": "Europe/London"}, token=token)
    assert [(user, profile.get("displayname")) for user, profile in server.propagated] == [(ALICE, "Alice")]
    # COMPAT: an empty string clears.
    await server.ask("PUT", field("displayname"), {"displayname": ""}, token=token)
    assert server.propagated[1] == (ALICE, {"m.tz": "Europe/London"})
    (await server.ask("GET", field("displayname"))).failed(404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("displayname", {}, "M_MISSING_PARAM"),
        ("displayname", {"avatar_url": "mxc://a.b/c"}, "M_MISSING_PARAM"),
        ("displayname", {"displayname": 7}, "M_BAD_JSON"),
        ("displayname", {"displayname": None}, "M_BAD_JSON"),
        ("displayname", {"displayname": "x" * 2000}, "M_INVALID_PARAM"),
        ("avatar_url", {"avatar_url": "https://example.org/a.png"}, "M_INVALID_PARAM"),
        ("avatar_url", {"avatar_url": "mxc://example.org"}, "M_INVALID_PARAM"),
        ("avatar_url", {"avatar_url": "mxc://example.org/a/b"}, "M_INVALID_PARAM"),
        ("m.tz", {"m.tz": 5}, "M_BAD_JSON"),
        ("nodots", {"nodots": 1}, "M_INVALID_PARAM"),
        ("Org.example", {"Org.example": 1}, "M_INVALID_PARAM"),
        ("a." + "x" * 255, {"a": 1}, "M_KEY_TOO_LARGE"),
        ("org.example.big", {"org.example.big": "x" * 66_000}, "M_PROFILE_TOO_LARGE"),
    ],
)
async def test_what_is_no_field_is_refused(
    server: UserServer, name: str, body: dict[str, object], code: str
) -> None:
    token = await server.user("alice")
    (await server.ask("PUT", field(name), body, token=token)).failed(400, code)
    assert (await server.ask("GET", at("profile", ALICE))).ok() == {}
    assert server.propagated == []


async def test_fields_together_have_a_limit(server: UserServer) -> None:
    token = await server.user("alice")
    half = "x" * 33_000
    (await server.ask("PUT", field("a.one"), {"a.one": half}, token=token)).ok()
    (await server.ask("PUT", field("a.two"), {"a.two": half}, token=token)).failed(400, "M_PROFILE_TOO_LARGE")
    (await server.ask("PUT", field("a.one"), {"a.one": "small"}, token=token)).ok()
    (await server.ask("PUT", field("a.two"), {"a.two": half}, token=token)).ok()


async def test_nobody_changes_anothers_profile(server: UserServer) -> None:
    await server.user("alice")
    bob = await server.user("bob")
    (await server.ask("PUT", field("displayname"), {"displayname": "Eve"}, token=bob)).failed(
        403, "M_FORBIDDEN"
    )
    (await server.ask("DELETE", field("displayname"), token=bob)).failed(403, "M_FORBIDDEN")
    (await server.ask("PUT", field("displayname"), {"displayname": "Eve"})).failed(401, "M_MISSING_TOKEN")


async def test_who_does_not_exist_has_none(server: UserServer) -> None:
    (await server.ask("GET", at("profile", f"@nobody:{SERVER}"))).failed(404, "M_NOT_FOUND")
    (await server.ask("GET", at("profile", "nobody"))).failed(400, "M_INVALID_PARAM")
    (await server.ask("GET", field("no field"))).failed(400, "M_INVALID_PARAM")


async def test_profiles_of_other_servers_are_asked_for(server: UserServer) -> None:
    token = await server.user("alice")
    other = "@olga:other.org"
    server.remote_profiles[other] = {"displayname": "Olga", "avatar_url": 7, "org.other": [1]}
    got = await server.ask("GET", at("profile", other), token=token)
    assert got.ok() == {"displayname": "Olga", "org.other": [1]}
    assert (await server.ask("GET", field("displayname", other), token=token)).ok() == {"displayname": "Olga"}
    (await server.ask("GET", field("avatar_url", other), token=token)).failed(404, "M_NOT_FOUND")
    (await server.ask("GET", at("profile", "@no:other.org"), token=token)).failed(404, "M_NOT_FOUND")
    # Without a token nobody makes this server ask another.
    (await server.ask("GET", at("profile", other))).failed(403, "M_FORBIDDEN")
    server.remote_profiles[other] = {"displayname": "x" * 70_000}
    (await server.ask("GET", at("profile", other), token=token)).failed(502, "M_UNKNOWN")


async def test_another_server_may_keep_profiles_to_itself(server: UserServer) -> None:
    token, other = await server.user("alice"), "@olga:other.org"
    server.remote_profiles[other] = {"errcode": "M_FORBIDDEN", "error": "Profiles are for friends"}
    for path in (at("profile", other), field("displayname", other)):
        (await server.ask("GET", path, token=token)).failed(403, "M_FORBIDDEN")
    server.remote_profiles[other] = {"errcode": "M_UNKNOWN", "error": "A proxy in between"}
    (await server.ask("GET", at("profile", other), token=token)).failed(502, "M_UNKNOWN")


async def test_other_servers_are_answered(server: UserServer) -> None:
    token = await server.user("alice")
    await server.ask("PUT", field("displayname"), {"displayname": "Alice"}, token=token)
    assert await server.profiles.answer(ALICE, None) == {"displayname": "Alice"}
    assert await server.profiles.answer(ALICE, "displayname") == {"displayname": "Alice"}
    for user_id, name in ((ALICE, "avatar_url"), (f"@no:{SERVER}", None), ("@alice:other.org", None)):
        with pytest.raises(MatrixError) as caught:
            await server.profiles.answer(user_id, name)
        assert caught.value.code == "M_NOT_FOUND"
