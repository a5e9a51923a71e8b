"""Killed while it gives keys out and hands messages to devices over: each goes to one, once.

Several users go on through the kills as clients do: what was not answered is asked again. No one-time
key may be given out twice, and no message between devices be lost or told twice to a client that goes
on with the tokens it got.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest

from tests.interop.authority import Authority
from tests.interop.client import ApiError, Client, MakeUser, login, request
from tests.interop.conftest import running
from tests.interop.peer import Peer, uri
from tests.interop.servers import Homeserver
from tests.interop.streams import is_sound
from tests.interop.waiting import eventually

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.xdist_group("interop-key-kills")]

KILLS = int(os.environ.get("COMITY_INTEROP_KEY_KILLS", "5"))
#: The longest life of the server between two kills, in seconds after it answers again.
LONGEST_LIFE = 0.6
#: A client that insists is answered by then.
ANSWERED_WITHIN = 60.0
PAUSE = 0.02
#: Keys of one upload; the owner makes more when there are fewer. Few, so that uploads are killed too.
STOCK = 4
KIND = "signed_curve25519"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

Json = dict[str, Any]


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory, authority: Authority, engine: str) -> Iterator[Homeserver]:
    """A server apart from that of the other tests: this one suffers."""
    yield from running("comity", tmp_path_factory.mktemp("near"), authority, engine)


async def _once(ask: Callable[[], Awaitable[Json]]) -> Json | None:
    """An answer; None where the server could not give one."""
    try:
        return await ask()
    except ApiError as error:
        if error.status < 500:
            raise
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        pass
    return None


async def _insist(ask: Callable[[], Awaitable[Json]]) -> Json:
    """Ask until there is an answer, as a client does that wants it done."""
    deadline = time.monotonic() + ANSWERED_WITHIN
    while time.monotonic() < deadline:
        answer = await _once(ask)
        if answer is not None:
            return answer
        await asyncio.sleep(PAUSE)
    raise AssertionError(f"not answered within {ANSWERED_WITHIN:g} s")


class Story:
    """One owner with two devices, one who writes to them, a server elsewhere that does the same."""

    def __init__(self, phone: Client, tablet: Client, bob: Client, peer: Peer) -> None:
        self.phone, self.tablet, self.bob, self.peer = phone, tablet, bob, peer
        #: Key id -> the key, as the owner made it; and what was given out, in the order of its coming.
        self.made: dict[str, str] = {}
        self.given: list[tuple[str, str]] = []
        self._newest: Json = {}
        #: What was sent by whom, acknowledged; what each device was told.
        self.sent: dict[str, list[int]] = {"bob": [], "peer": []}
        self.told: dict[str, list[tuple[str, int]]] = {"phone": [], "tablet": []}
        self._position = self._messages = ""
        self.end = asyncio.Event()

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self.end.is_set():
            await work()
            await asyncio.sleep(PAUSE)

    # -- keys

    async def upload(self) -> None:
        """Make new keys where there are few, and send them until that is acknowledged.

        The last ones are sent once more before, as if that answer had been lost: some are given out by then.
        """
        await self._send_keys()
        counts = await self._send_keys({})
        if counts["one_time_key_counts"].get(KIND, 0) < STOCK:
            first = len(self.made)
            new = {f"{KIND}:{number:06}": f"key {number}" for number in range(first, first + STOCK)}
            self.made.update(new)
            self._newest = {key_id: {"key": key, "signatures": {}} for key_id, key in new.items()}
            await self._send_keys()

    async def _send_keys(self, keys: Json | None = None) -> Json:
        body = {"one_time_keys": self._newest if keys is None else keys}
        return await _insist(lambda: self.phone.call("POST", "keys", "upload", body=body))

    @property
    def _wanted(self) -> Json:
        return {"one_time_keys": {self.phone.user_id: {self.phone.device_id: KIND}}}

    def _take(self, answer: Json | None) -> None:
        for devices in (answer or {"one_time_keys": {}})["one_time_keys"].values():
            for keys in devices.values():
                self.given += [(key_id, key["key"]) for key_id, key in keys.items()]

    async def claim_here(self) -> None:
        self._take(await _once(lambda: self.bob.call("POST", "keys", "claim", body=self._wanted)))

    async def claim_elsewhere(self) -> None:
        self._take(await _once(lambda: self._peer_asks("POST", uri("user", "keys", "claim"), self._wanted)))

    async def _peer_asks(self, method: str, target: str, content: Json) -> Json:
        answer = await self.peer.request(method, self.phone.server.name, target, content)
        if answer.status != 200:
            raise ApiError(method, target, answer.status, answer.body)
        return dict(answer.body)

    # -- messages

    async def write_here(self) -> None:
        """Bob writes to all devices of the owner, and to somebody elsewhere."""
        number = len(self.sent["bob"])
        content = {"from": "bob", "n": number}
        messages = {self.phone.user_id: {"*": content}, self.peer.user("dora"): {"THEIRS": content}}
        path = ("sendToDevice", "org.test", f"t{number}")
        await _insist(lambda: self.bob.call("PUT", *path, body={"messages": messages}))
        self.sent["bob"].append(number)

    async def write_elsewhere(self) -> None:
        """Somebody elsewhere writes to the owner; the transaction is repeated as it was."""
        number = len(self.sent["peer"])
        message = {
            "sender": self.peer.user("dora"), "type": "org.test", "message_id": f"m{number}",
            "messages": {self.phone.user_id: {"*": {"from": "peer", "n": number}}},
        }  # fmt: skip
        body = self.peer.transaction([], [{"edu_type": "m.direct_to_device", "content": message}])
        await _insist(lambda: self._peer_asks("PUT", uri("send", f"s{number}"), body))
        self.sent["peer"].append(number)

    async def follow_old(self) -> None:
        """The phone goes on by /sync."""
        query: dict[str, str | int] = {"timeout": 500}
        if self.phone.since is not None:
            query["since"] = self.phone.since
        answer = await _once(lambda: self.phone.call("GET", "sync", query=query))
        if answer is not None:
            self.phone.since = answer["next_batch"]
            self._hear("phone", answer.get("to_device", {}).get("events", []))

    async def follow_sliding(self) -> None:
        """The tablet goes on by sliding sync, beginning anew where its connection is not known any more."""
        query: dict[str, str | int] = {"timeout": 500, **({"pos": self._position} if self._position else {})}
        asked = {"enabled": True, **({"since": self._messages} if self._messages else {})}
        tablet = self.tablet
        try:
            answer = await _once(
                lambda: request(
                    tablet.http, "POST", tablet.server.base_url, SLIDING, token=tablet.token,
                    body={"extensions": {"to_device": asked}}, query=query,
                )
            )  # fmt: skip
        except ApiError as error:
            assert error.errcode == "M_UNKNOWN_POS", error
            self._position = ""
            return
        if answer is not None:
            self._position = answer["pos"]
            part = answer["extensions"]["to_device"]
            self._messages = part["next_batch"]
            self._hear("tablet", part.get("events", []))

    def _hear(self, who: str, events: list[Json]) -> None:
        self.told[who] += [(event["content"]["from"], event["content"]["n"]) for event in events]

    # -- what must be true

    async def all_is_told(self) -> bool:
        """Each device has each message once and in order; what is missing may still come."""
        await self.follow_old()
        await self.follow_sliding()
        for who, told in self.told.items():
            for sender, sent in self.sent.items():
                heard = [number for name, number in told if name == sender]
                if heard != sorted(set(heard)):
                    raise RuntimeError(f"{who} was told twice or out of order by {sender}: {heard}")
                assert heard == sent, f"{who} was told {len(heard)} of {len(sent)} by {sender}"
        by_id: dict[str, int] = {}
        for edu in self.peer.edus:
            if edu["edu_type"] == "m.direct_to_device":
                message = edu["content"]
                content = message["messages"][self.peer.user("dora")]["THEIRS"]
                assert by_id.setdefault(message["message_id"], content["n"]) == content["n"]
        arrived = list(by_id.values())
        if arrived != sorted(set(arrived)):
            raise RuntimeError(f"sent twice or out of order: {arrived}")
        assert arrived == self.sent["bob"], f"{len(arrived)} of {len(self.sent['bob'])} came to the peer"
        return True

    def no_key_was_given_twice(self) -> None:
        twice = [key_id for key_id, count in Counter(key_id for key_id, _ in self.given).items() if count > 1]
        assert not twice
        assert all(self.made[key_id] == key for key_id, key in self.given)


async def test_each_key_and_each_message_once(
    near: Homeserver, user: MakeUser, http: aiohttp.ClientSession, peer: Peer
) -> None:
    seed = int(os.environ.get("COMITY_INTEROP_SEED", random.randrange(1_000_000)))
    print(f"COMITY_INTEROP_SEED={seed}")
    moments = random.Random(seed)
    phone, bob = await user(near, "alice"), await user(near, "bob")
    tablet = await login(http, near, phone.user_id.split(":")[0][1:])
    story = Story(phone, tablet, bob, peer)
    work = (
        story.upload, story.claim_here, story.claim_here, story.claim_elsewhere,
        story.write_here, story.write_elsewhere, story.follow_old, story.follow_sliding,
    )  # fmt: skip
    async with asyncio.TaskGroup() as tasks:
        for each in work:
            tasks.create_task(story.run(each))
        for _ in range(KILLS):
            await asyncio.sleep(moments.uniform(0.02, LONGEST_LIFE))
            await asyncio.to_thread(near.process.kill)
            await asyncio.to_thread(near.process.start)
        story.end.set()
    counts = {name: len(sent) for name, sent in story.sent.items()}
    print(f"{len(story.given)} of {len(story.made)} keys given out, messages {counts}, under {KILLS} kills")
    assert len(story.given) > KILLS
    story.no_key_was_given_twice()
    await eventually(story.all_is_told, "every message", within=60.0)
    await is_sound(near)
