"""Every endpoint has its limit: those that the specification wants limited, and all others but a few."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from comity.config import RateLimits as RateLimitsConfig
from comity.config import loads
from comity.users.rate_limits import MAX_BUCKETS, RateLimits
from tests import specification
from tests.api.support_rooms import LIMITED, Client, Place, place
from tests.api.support_users import SERVER, TurnedClock
from tests.specification import operations, shape

PASSWORD = {"type": "m.login.password", "password": "correct horse"}
#: Each limit is one at once: the second request that counts against it is refused.
TIGHT = "[rate_limits]\n" + "".join(
    f"{limit.name} = {{ per_second = 0.001, burst = 1 }}\n"
    for limit in fields(RateLimitsConfig)
    if limit.name != "enabled"
)
#: What a request must hold to come as far as its limit: (method, path behind the version) -> body.
BODIES: Mapping[tuple[str, str], object] = {
    ("POST", "/login"): {**PASSWORD, "user": "alice"},
    ("POST", "/refresh"): {"refresh_token": "none"},
    ("POST", "/login/get_token"): {"auth": PASSWORD},
    ("POST", "/account/password"): {"new_password": "another", "auth": PASSWORD},
    ("POST", "/account/deactivate"): {"auth": PASSWORD},
    ("PUT", "/profile/{userId}/{keyName}"): {"displayname": "Alice"},
    ("POST", "/org.matrix.msc4140/delayed_events/{delayId}"): {"action": "send"},
    ("POST", "/search"): {"search_categories": {"room_events": {"search_term": "word"}}},
}
QUERIES: Mapping[str, dict[str, str]] = {
    "/register/available": {"username": "bob"},
    "/register/m.login.registration_token/validity": {"token": "none"},
    "/mutual_rooms": {"user_id": f"@bob:{SERVER}"},
}
#: What is not limited, and why not.
FREE = {
    # They wait for news: the server says when.
    "/sync", "/org.matrix.simplified_msc3575/sync", "/events",
    # Nobody should be kept from ending a session.
    "/logout", "/logout/all",
    # The same words for everybody, from memory.
    "/auth_metadata", "/org.matrix.msc2965/auth_metadata", "/versions",
    "/.well-known/matrix/client", "/.well-known/matrix/server", "/.well-known/matrix/support",
    "/.well-known/matrix/policy_server", "/health",
}  # fmt: skip
#: Pages for browsers, which answer in HTML; what is done there is limited where it is decided.
PAGES = ("/auth/{authType}/fallback/web", "/login/sso/redirect")
#: Times that a request is made: with one limit to count against, the second one is refused.
TRIES = 3
VALUES = {
    "userId": f"@alice:{SERVER}", "keyName": "displayname", "deviceId": "ABC", "version": "1",
    "roomIdOrAlias": f"%21room:{SERVER}", "roomId": f"%21room:{SERVER}", "eventId": "%24event",
    "receiptType": "m.read", "kind": "content", "action": "send", "roomAlias": f"%23alias:{SERVER}",
}  # fmt: skip


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path, changes={"[rate_limits]\nenabled = false\n": TIGHT}) as opened:
        yield opened


def behind_version(path: str) -> str:
    """What follows the version in a path of the client-server API."""
    return (
        "/" + path.split("/", 4)[4] if path.startswith("/_matrix/client/") and path.count("/") > 3 else path
    )


async def is_refused(client: Client, method: str, template: str) -> bool:
    """Whether a request is refused for being made too often."""
    path = re.sub(r"\{(\w+)\}", lambda found: VALUES.get(found[1], "x"), template)
    behind = behind_version(template)
    body = None if method == "GET" else BODIES.get((method, behind), {})
    for _ in range(TRIES):
        answer = await client.ask(method, path, body, **QUERIES.get(behind, {}))
        if answer.status == 429:
            told = answer.failed(429, "M_LIMIT_EXCEEDED")["retry_after_ms"]
            assert told > 0
            assert answer.headers["Retry-After"] == str(-(-told // 1000))
            return True
    return False


async def test_what_the_specification_limits_is_limited(server: Place) -> None:
    alice = await server.client("alice")
    routes = {(method, shape(template)): template for method, template in server.app.router.templates()}
    wanted = [
        (operation.method, routes[operation.method, shape(operation.path)])
        for operation in operations()
        if operation.limited
        and operation.api == "client-server"
        and (operation.method, shape(operation.path)) in routes
    ]
    assert len(wanted) > 40
    assert [route for route in wanted if not await is_refused(alice, *route)] == []


async def test_everything_is_limited_but_what_waits_and_what_costs_nothing(server: Place) -> None:
    alice = await server.client("alice")
    free, without = set(), []
    for method, template in server.app.router.templates():
        behind = behind_version(template)
        if template.startswith(("/_matrix/client/v1", "/_matrix/client/v3", "/_matrix/client/unstable")):
            if behind in FREE:
                # Asked for once, a session would be gone.
                free.add(behind)
            elif not behind.startswith(PAGES) and not await is_refused(alice, method, template):
                without.append(f"{method} {template}")
    assert without == []
    assert free == {path for path in FREE if not path.startswith(("/versions", "/.well-known", "/health"))}


async def test_a_client_that_does_much_is_not_held_up(tmp_path: Path) -> None:
    """One-time keys, a backup that is filled and fetched key by key, a bot that reads what is said."""
    async with place(tmp_path, changes=LIMITED) as server:
        alice = await server.client("alice")
        keys = {f"signed_curve25519:{number}": {"key": "a"} for number in range(100)}
        for _ in range(2):
            (await alice.ask("POST", "/keys/upload", {"one_time_keys": keys})).ok()
        for number in range(200):
            (await alice.ask("POST", "/keys/query", {"device_keys": {alice.user_id: []}})).ok()
            body: dict[str, object] = {"messages": {alice.user_id: {"*": {}}}}
            (await alice.ask("PUT", f"/sendToDevice/a.b/t{number}", body)).ok()
        backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {}}
        version = (await alice.ask("POST", "/room_keys/version", backup)).ok()["version"]
        session = {
            "first_message_index": 0, "forwarded_count": 0, "is_verified": True, "session_data": {},
        }  # fmt: skip
        for number in range(1000):
            path = f"/room_keys/keys/%21a%3Aexample.org/s{number}"
            (await alice.ask("PUT", path, session, version=version)).ok()
        room = await alice.create()
        said = await alice.say(room, "hello")
        for _ in range(300):
            (await alice.ask("POST", f"/rooms/{room}/receipt/m.read/{said}", {})).ok()


def test_buckets_are_bounded_and_whoever_is_forgotten_begins_anew() -> None:
    config = loads(f'server_name = "{SERVER}"\n{TIGHT}', Path("/")).rate_limits
    limits = RateLimits(TurnedClock(), config)
    for number in range(MAX_BUCKETS + 1):
        limits.check("keys", f"@user{number}:{SERVER}")
    limits.check("keys", f"@user0:{SERVER}")
    # Some of the oldest go together.
    assert 0.9 * MAX_BUCKETS < len(limits._buckets) <= MAX_BUCKETS


def test_the_list_of_the_specification_is_there() -> None:
    assert sum(operation.limited for operation in specification.operations()) > 60
