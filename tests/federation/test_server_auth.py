"""The guard of the federation routes, called as the router calls it."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import pytest

from comity.api.router import Call, Router, json_response
from comity.api.server_auth import OriginGuard
from comity.federation.certificates import ClientCertificates
from comity.federation.keyring import Keyring
from comity.ports import Request, Response
from tests.federation.conftest import OWN_NAME, Side
from tests.federation.doors import ManualClock
from tests.federation.peer_server import Key, PeerServer, canonical

PATH = "/_matrix/federation/v1/x/%21a%3Ab"


class Guarded:
    """A router with one route behind the guard, and what the guard told."""

    def __init__(self, keyring: Keyring, certificates: ClientCertificates) -> None:
        self.spoke: list[str] = []
        self.router = Router()
        guard = OriginGuard(keyring, OWN_NAME, self.spoke.append, certificates)
        for method in ("GET", "PUT"):
            self.router.add(
                method, "/_matrix/federation/v1/x/{y}", self.answer, guard=guard, serves="federation"
            )

    async def answer(self, call: Call) -> Response:
        return json_response({"origin": call.origin, "y": call.parameters["y"]})

    async def ask(
        self,
        method: str,
        authorization: str | None,
        *,
        body: bytes = b"",
        query: str = "",
        too_large: bool = False,
    ) -> tuple[int, Mapping[str, str]]:
        headers = {} if authorization is None else {"authorization": authorization}
        request = Request(
            method, PATH, query, headers, body, "127.0.0.1", frozenset({"federation"}), None, too_large
        )
        response = await self.router.handle(request)
        assert isinstance(response.body, bytes)
        return response.status, orjson.loads(response.body)


@pytest.fixture
def guarded(keyring: Keyring, side: Side, clock: ManualClock) -> Guarded:
    return Guarded(keyring, ClientCertificates(side.keys, clock))


def header(
    peer: PeerServer,
    method: str,
    *,
    content: object = None,
    uri: str = PATH,
    destination: str = OWN_NAME,
    key: Key | None = None,
    without_destination: bool = False,
) -> str:
    key = key or peer.key
    signed = {"method": method, "uri": uri, "origin": peer.name, "destination": destination}
    if content is not None:
        signed["content"] = content  # type: ignore[assignment]
    named = "" if without_destination else f'destination="{destination}",'
    signature = key.sign(canonical(signed))
    return f'X-Matrix origin="{peer.name}",{named}key="{key.key_id}",sig="{signature}"'


async def test_a_signed_request_passes(guarded: Guarded, peer: PeerServer) -> None:
    status, answer = await guarded.ask("GET", header(peer, "GET"))
    assert (status, answer) == (200, {"origin": peer.name, "y": "!a:b"})
    assert guarded.spoke == [peer.name]


async def test_query_and_body_are_covered_as_they_were_sent(guarded: Guarded, peer: PeerServer) -> None:
    query = "v=%24a&v=b+c&d=%e4"
    signed = header(peer, "PUT", content={"b": [1, "ü"], "a": None}, uri=f"{PATH}?{query}")
    body = b'{ "b": [1, "\\u00fc"],\n "a": null }'
    assert (await guarded.ask("PUT", signed, body=body, query=query))[0] == 200
    assert (await guarded.ask("PUT", signed, body=body, query="v=%24a&v=b%20c&d=%e4"))[0] == 401
    assert (await guarded.ask("PUT", signed, body=b'{"b":[1]}', query=query))[0] == 401
    assert (await guarded.ask("PUT", signed, query=query))[0] == 401
    assert guarded.spoke == [peer.name]


async def test_older_servers_leave_the_destination_out_of_the_header(
    guarded: Guarded, peer: PeerServer
) -> None:
    assert (await guarded.ask("GET", header(peer, "GET", without_destination=True)))[0] == 200


async def test_one_good_signature_of_several_is_enough(guarded: Guarded, peer: PeerServer) -> None:
    second = header(peer, "GET", key=Key("ed25519:unknown", "unknown"))
    assert (await guarded.ask("GET", f"{second}, {header(peer, 'GET')}"))[0] == 200
    assert (await guarded.ask("GET", f"{second}, {second}"))[0] == 401
    assert (await guarded.ask("GET", ", ".join([header(peer, "GET")] * 5)))[0] == 401


async def test_refusals(guarded: Guarded, peer: PeerServer) -> None:
    good = header(peer, "GET")
    own = PeerServer(name=OWN_NAME)
    for refused in (
        None,
        "",
        "Bearer x",
        "X-Matrix",
        "X-Matrix origin",
        good.replace("sig=", "gis="),
        good.replace(peer.name, "localhost:1"),
        good.replace(peer.name, "no name!"),
        good[:-8] + 'AAAAAA"',
        header(peer, "GET", destination="other.example"),
        header(peer, "PUT"),
        header(own, "GET"),
        good + ", " + good.replace(peer.name, "other.example"),
        good + "x" * 5000,
    ):
        status, answer = await guarded.ask("GET", refused)
        assert (status, answer["errcode"]) == (401, "M_UNAUTHORIZED"), refused
        assert answer["error"][0].isupper()
    assert guarded.spoke == []


async def test_a_body_that_cannot_be_read_is_told_as_such(guarded: Guarded, peer: PeerServer) -> None:
    signed = header(peer, "PUT", content={})

    def nested(depth: int) -> bytes:
        return b'{"a":' * depth + b"1" + b"}" * depth

    # One event that is nested deeper than any may be is no reason not to read what came with it;
    # the second of these is read, and is not what was signed.
    expected = [(b"{", 400, "M_NOT_JSON"), (b"[]", 400, "M_BAD_JSON"), (b"\xff", 400, "M_NOT_JSON")]
    for body, status, code in [
        *expected,
        (nested(2_000), 400, "M_NOT_JSON"),
        (nested(300), 401, "M_UNAUTHORIZED"),
    ]:
        told, answer = await guarded.ask("PUT", signed, body=body)
        assert (told, answer["errcode"]) == (status, code)
    told, answer = await guarded.ask("PUT", signed, too_large=True)
    assert (told, answer["errcode"]) == (413, "M_TOO_LARGE")
