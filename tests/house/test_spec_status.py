"""docs/spec-status.md says what the routes say, and no operation that was served has gone."""

from __future__ import annotations

from comity.api.router import Call, Router, json_response
from comity.ports import Request, Response
from docs import make_spec_status as status
from tests import specification
from tests.house.tree import ROOT

#: The schemas are a small file, or they are kept in another way.
MAX_SCHEMA_BYTES = 200 << 10


async def nothing(call: Call) -> Response:
    return json_response({})


def routed(method: str, template: str) -> Router:
    """A router with one route."""
    router = Router()
    router.add(method, template, nothing, guard=None)
    return router


async def test_the_page_is_what_the_routes_say() -> None:
    router, served = await status.routes(), status.known_tests()
    assert not status.gone(served, router), "operations that were served are gone"
    assert status.renewed(served, router, set()) == served, "make spec-status"
    assert status.page(served, router) == status.PAGE.read_text("utf-8"), "make spec-status"


def test_the_tests_that_the_page_names_are_there() -> None:
    tests = {test for tests in status.known_tests().values() for test in tests}
    assert tests
    assert [test for test in tests if not (ROOT / test).is_file()] == [], "make spec-status"


def test_what_is_gone_and_what_is_new_is_seen() -> None:
    whoami, ban = "client-server getTokenOwner", "client-server ban"
    router = routed("GET", "/_matrix/client/v3/account/whoami")
    assert status.gone({whoami: [], ban: []}, router) == [ban]
    recorded = {("GET", "/_matrix/client/v3/account/whoami", "tests/api/test_login.py")}
    assert status.renewed({}, router, recorded) == {whoami: ["tests/api/test_login.py"]}
    # A test that ran again and did not call it is taken out; one that is no file, too.
    before = {whoami: ["tests/api/test_login.py", "tests/api/test_sync.py", "tests/api/no_such_test.py"]}
    elsewhere = {("GET", "/elsewhere", "tests/api/test_login.py")}
    assert status.renewed(before, router, elsewhere) == {whoami: ["tests/api/test_sync.py"]}
    # Another method, and a variable where the specification has a word, are other routes.
    assert status.gone({whoami: []}, routed("POST", "/_matrix/client/v3/account/whoami")) == [whoami]
    assert status.gone({whoami: []}, routed("GET", "/_matrix/client/v3/account/{what}")) == [whoami]
    lines = status.page({}, router).splitlines()
    assert "| `GET /_matrix/client/v3/account/whoami` getTokenOwner | served |  |" in lines
    assert "| `POST /_matrix/client/v3/rooms/{roomId}/ban` ban | **missing** |  |" in lines


def faults(router: Router, path: str, code: int, body: object, query: str = "") -> list[str]:
    """The faults of an answer to GET."""
    request = Request("GET", path, query, {}, b"", "192.0.2.1", frozenset({"client"}))
    return specification.faults(router, request, code, body)


def test_an_answer_that_is_not_as_specified_is_told_with_the_place() -> None:
    path = "/_matrix/client/v3/rooms/{roomId}/joined_members"
    router, asked = routed("GET", path), "/_matrix/client/v3/rooms/%21a/joined_members"
    assert faults(router, asked, 200, {"joined": {"@a:b": {"display_name": "A"}}}) == []
    (fault,) = faults(router, asked, 200, {"joined": {"@a:b": {"display_name": 5}}})
    assert "$.joined['@a:b'].display_name: 5 is not of type 'string'" in fault
    assert "client-server getJoinedMembersByRoom" in fault
    assert faults(router, asked, 403, {"errcode": "M_FORBIDDEN", "error": "You are not there"}) == []
    assert len(faults(router, asked, 403, {"errcode": 403})) == 2


def test_a_float_is_no_integer() -> None:
    path = "/_matrix/client/v1/rooms/{roomId}/timestamp_to_event"
    answer = {"event_id": "$a", "origin_server_ts": 5}
    assert faults(routed("GET", path), path, 200, answer) == []
    assert len(faults(routed("GET", path), path, 200, {**answer, "origin_server_ts": 5.0})) == 1


def test_what_is_allowed_is_allowed_there_alone() -> None:
    path = "/_matrix/client/v3/devices"
    router = routed("GET", path)
    assert faults(router, path, 200, {"devices": [{"device_id": "A", "display_name": None}]}) == []
    assert len(faults(router, path, 200, {"devices": [{"device_id": None, "display_name": None}]})) == 1
    path = "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}"
    event = {"type": "a", "state_key": "", "event_id": "$a", "sender": "@a:b", "origin_server_ts": 5}
    router, event = routed("GET", path), {**event, "room_id": "!a:b", "content": {}}
    assert faults(router, path, 200, event, "format=event") == []
    assert len(faults(router, path, 200, event)) == 1


def test_what_the_page_calls_empty_is_an_operation() -> None:
    assert {operation.name for operation in specification.operations()} >= status.EMPTY


def test_every_allowance_is_for_an_operation() -> None:
    names = {operation.name for operation in specification.operations()}
    assert {allowance.operation for allowance in specification.ALLOWED} <= names


def test_the_schemas_are_few_bytes() -> None:
    assert (specification.DATA / "response_schemas.json.zst").stat().st_size < MAX_SCHEMA_BYTES
