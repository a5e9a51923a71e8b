"""A whole server in this process, with rooms, a user, and another server that has joined them.

`World.ask` gives it one request and looks at everything that a request can break: the answer,
the log, and tasks that go on behind it. The other server signs what it sends, so that an input
that means to be from it gets past the signatures.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from comity.app import App, build
from comity.config import loads, signing_key
from comity.net.pausing import GreenletPausing
from comity.ports import Answer, Endpoint, Letter, Ports, Request, Response, TransportError
from comity.protocol import canonical_json
from comity.protocol.auth.rules import auth_keys
from comity.protocol.build import reference_to
from comity.protocol.event import Event, StateKey, parse
from comity.protocol.room_versions import ROOM_VERSIONS, EventIds, RoomVersion
from comity.protocol.signing import SigningKey, build_key_document, sign_event, sign_request
from fuzz.target import Broken, require
from tests.api.support_rooms import CONFIGURATION, NoResolver
from tests.api.support_users import InlineOffload, SeededEntropy, TurnedClock

SERVER, PEER = "192.0.2.1:8448", "192.0.2.2:8448"
USER, PEER_USER = f"@alice:{SERVER}", f"@bob:{PEER}"
PEER_KEY = SigningKey("peer", b"\x02" * 32)
#: So that addresses can be proven.
EMAIL = '[email]\nsmtp_url = "smtp://localhost"\nfrom = "noreply@example.org"\n'
OAUTH = "[oauth]\nenabled = true\n"
#: One room of each kind of format.
VERSIONS = ("2", "5", "10", "12")
FEDERATION = "/_matrix/federation/v1"
#: Rounds of the event loop in which a request that waits for nothing is answered.
ROUNDS = 200
#: Times that the clock is turned on by half a minute for a request that waits.
TURNS = 6


class _Faults(logging.Handler):
    """Keeps the exceptions that were logged: nobody logs one that was expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[tuple[str, BaseException | None]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append((str(record.msg), record.exc_info[1] if record.exc_info else None))


FAULTS = _Faults()
logging.getLogger().addHandler(FAULTS)


class PeerNetwork:
    """`ports.Transport` to the one other server: it has keys, and answers as an input says."""

    def __init__(self, clock: TurnedClock) -> None:
        self._clock = clock
        #: The first part of a path below the API's version -> the JSON to answer.
        self.answers: dict[str, Any] = {}

    async def request(
        self,
        method: str,
        endpoint: Endpoint,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
    ) -> Answer:
        if f"{endpoint.host}:{endpoint.port}" != PEER:
            raise TransportError("Nobody is there")
        if target.startswith("/_matrix/key/v2/server"):
            until = self._clock.now_ms() + 24 * 3600 * 1000
            return Answer(200, {}, orjson.dumps(build_key_document(PEER, [PEER_KEY], {}, until)))
        name = target.partition("?")[0].split("/")[4]
        if name not in self.answers:
            return Answer(404, {}, b'{"errcode":"M_NOT_FOUND","error":""}')
        return Answer(200, {}, orjson.dumps(self.answers[name]))

    async def get_url(self, url: str, *, timeout: float, max_bytes: int) -> Answer:
        raise TransportError("There is no network")


class Letterbox:
    """`ports.Mail` that takes every letter."""

    async def send(self, letter: Letter) -> None:
        """Take it."""


class PeerRoom:
    """A room as the other server sees it."""

    def __init__(self, version: RoomVersion, room_id: str) -> None:
        self.version = version
        self.room_id = room_id
        self.state: dict[StateKey, Event] = {}
        self.head: Event | None = None

    def completed(self, written: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
        """An event of the other server: what is not written is what it should be, signatures too.

        With `signatures` written, the event is taken as it is.
        """
        if "signatures" in written:
            return dict(written)
        source: dict[str, Any] = {
            "type": "m.room.message", "sender": PEER_USER, "room_id": self.room_id, "content": {},
            "origin_server_ts": now_ms, "depth": self.head.depth + 1 if self.head else 1,
        }  # fmt: skip
        if self.head is not None:
            source["prev_events"] = self._references([self.head])
        source.update(written)
        if "auth_events" not in source:
            try:
                keys = auth_keys(
                    self.version, source["type"], source["sender"], source.get("state_key"), source["content"]
                )
                source["auth_events"] = self._references(
                    [self.state[key] for key in keys if key in self.state]
                )
            except (AttributeError, TypeError):
                source["auth_events"] = []
        if self.version.event_ids is EventIds.ASSIGNED:
            source.setdefault("event_id", f"${now_ms}:{PEER}")
        source.pop("hashes", None)
        try:
            return dict(sign_event(self.version, source, PEER, PEER_KEY).source)
        except Exception:  # noqa: BLE001 - what cannot be signed is sent as it is
            return source

    def _references(self, events: list[Event]) -> list[Any]:
        if not self.version.references_carry_hashes:
            return [event.event_id for event in events]
        return [[event.event_id, {"sha256": reference_to(event).reference_hash}] for event in events]


class TurnedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time can be turned on, for what waits by it."""

    turned = 0.0

    def time(self) -> float:
        return super().time() + self.turned


class World:
    """The server and all around it. Make it with `open_world`, once in a while anew."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="comity-fuzz-", dir=_fast_folder())
        self._loop = TurnedLoop()
        self.clock = TurnedClock()
        self.network = PeerNetwork(self.clock)
        self.app = self._loop.run_until_complete(self._opened())
        self.rooms: dict[str, PeerRoom] = {}
        self.event = ""
        self.token = ""
        self._prepare()

    async def _opened(self) -> App:
        folder = Path(self._folder.name)
        (folder / "signing.key").write_text(signing_key.render("a1", bytes(32)))
        ports = Ports(
            self.clock, SeededEntropy(), self.network, NoResolver(), InlineOffload(), GreenletPausing(),
            mail=Letterbox(),
        )  # fmt: skip
        text = CONFIGURATION.format(name=SERVER, url="sqlite:comity.db", federation="true") + EMAIL + OAUTH
        app = build(loads(text, folder), ports)
        await app.start()
        return app

    def _prepare(self) -> None:
        body = {"username": "alice", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        self.token = self._expect("POST", "/_matrix/client/v3/register", body)["access_token"]
        for identifier in VERSIONS:
            self.pass_time(1.0)  # the id of a room is the hash of how it began
            wanted = {"preset": "public_chat", "room_version": identifier}
            room_id = self._expect("POST", "/_matrix/client/v3/createRoom", wanted)["room_id"]
            self.rooms[identifier] = PeerRoom(ROOM_VERSIONS[identifier], room_id)
            self._join(self.rooms[identifier])
            path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.room.message/1"
            self.event = self._expect("PUT", path, {"body": "hello"})["event_id"]

    def _expect(self, method: str, path: str, body: object) -> Any:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        response = self.ask(method, path, "", headers, orjson.dumps(body))
        assert response.status == 200 and isinstance(response.body, bytes), response
        return orjson.loads(response.body)

    def _join(self, room: PeerRoom) -> None:
        version, quoted = room.version, quote(room.room_id, safe="")
        path = f"{FEDERATION}/make_join/{quoted}/{quote(PEER_USER, safe='')}"
        template = self.ask_as_peer("GET", path, f"ver={version.identifier}", None)
        source = orjson.loads(template)["event"]
        source.setdefault("event_id", f"$join{version.identifier}:{PEER}")
        if version.event_ids is not EventIds.ASSIGNED:
            del source["event_id"]
        event = sign_event(version, source, PEER, PEER_KEY)
        path = f"/_matrix/federation/v2/send_join/{quoted}/{quote(event.event_id, safe='')}"
        answer = orjson.loads(self.ask_as_peer("PUT", path, "", dict(event.source)))
        for held in answer["state"]:
            parsed = parse(version, held)
            room.state[parsed.key] = parsed
        room.state[event.key] = room.head = event

    def ask_as_peer(self, method: str, path: str, query: str, body: object | None) -> bytes:
        """A request of the other server that must be answered with a 200."""
        data = b"" if body is None else orjson.dumps(body)
        response = self.ask(method, path, query, {"authorization": "sign"}, data)
        assert response.status == 200 and isinstance(response.body, bytes), response
        return response.body

    def pass_time(self, seconds: float) -> None:
        """Turn the server's clock."""
        self._loop.run_until_complete(self.clock.turn(seconds))

    # -- requests

    def ask(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Response:
        """One request; the `authorization` `sign` stands for a valid signature of the other server.

        Raises Broken where something broke, whatever the answer says.
        """
        sent = dict(headers)
        if sent.get("authorization") == "sign":
            sent["authorization"] = self._signature(method, path, query, body)
        request = Request(method, path, query, sent, body, "192.0.2.9", frozenset({"client", "federation"}))
        FAULTS.seen.clear()
        response = self._loop.run_until_complete(self._answered(request))
        for text, error in FAULTS.seen:
            raise Broken(f"an error is logged: {text}") from error
        if response.status == 500:
            raise Broken("the answer is 500")
        return response

    def _signature(self, method: str, path: str, query: str, body: bytes) -> str:
        target = f"{path}?{query}" if query else path
        try:
            content = canonical_json.parse(body) if body else None
            return sign_request(method, target, PEER, SERVER, content, PEER_KEY)
        except (canonical_json.CanonicalJsonError, UnicodeEncodeError):
            return 'X-Matrix origin="",key="",sig=""'

    async def _answered(self, request: Request) -> Response:
        task = asyncio.get_running_loop().create_task(self.app.handle(request))
        for _ in range(TURNS):
            for _ in range(ROUNDS):
                if task.done():
                    break
                await asyncio.sleep(0)
            if task.done():
                break
            await self.clock.turn(30.0)
            self._loop.turned += 30.0
        if not task.done():
            task.cancel()
            raise Broken("a request is not answered in three minutes")
        for _ in range(5):  # what goes on behind the answer
            await asyncio.sleep(0)
        return task.result()

    def close(self) -> None:
        """Stop the server and remove what it left."""
        self._loop.run_until_complete(self.app.stop())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
        self._folder.cleanup()


def _fast_folder() -> str | None:
    """Memory, where there is a folder of it: a commit then costs no disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


class Worlds:
    """The world that inputs share, made anew after so many, or when one has left it in disorder."""

    def __init__(self, inputs: int) -> None:
        self._inputs = inputs
        self._left = 0
        self._world: World | None = None

    def take(self) -> World:
        """The world for one input."""
        if self._world is None or self._left == 0:
            self.discard()
            self._world, self._left = World(), self._inputs
        self._left -= 1
        return self._world

    def discard(self) -> None:
        """Let the next input have a new one."""
        world, self._world = self._world, None
        if world is not None:
            world.close()


def check_json(response: Response) -> Any:
    """The JSON of an answer. Every answer of the APIs has one, and an error says which it is.

    None for a page, which is for people to read.
    """
    require(isinstance(response.body, bytes), "an answer is whole")
    assert isinstance(response.body, bytes)
    if "Content-Security-Policy" in response.headers:
        return None
    value = orjson.loads(response.body or b"{}")
    # client-server §User-Interactive Authentication: a 401 that says what is missing is no error yet.
    is_step = response.status == 401 and isinstance(value, dict) and "flows" in value
    if response.status >= 400 and not is_step:
        require(isinstance(value, dict) and isinstance(value.get("errcode"), str), "an error has a code")
        require(isinstance(value.get("error"), str), "an error has a sentence")
    return value
