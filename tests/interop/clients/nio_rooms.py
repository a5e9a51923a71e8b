"""matrix-nio on two devices of one account, while others act: both hold the same.

Runs in the virtual environment that has matrix-nio, apart from the tests. Arguments: the
homeserver's URL, the CA file, and three users as LOCALPART PASSWORD (alice, who looks; bob,
who acts; carol). One of alice's devices follows all along, the other comes in the end.
Prints a line for every step that came true; ends with 0 when all did.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from nio import AsyncClient, AsyncClientConfig
from nio.api import ReceiptType, RelationshipType, ThreadInclusion
from nio.responses import ErrorResponse

#: Rounds of /sync until something must have come.
ROUNDS = 20
POLL_MS = 1000
#: Small, so that paging is really exercised.
PAGE = 7
MESSAGE = "m.room.message"


def good(response: Any) -> Any:
    if isinstance(response, ErrorResponse):
        raise SystemExit(f"{type(response).__name__}: {response}")
    return response


def step(text: str) -> None:
    print(text, flush=True)


def text(body: str, **more: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body, **more}


def relation(kind: str, event_id: str, **more: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": kind, "event_id": event_id, **more}}


class Device:
    """A logged-in nio client, and the ids of what its syncs told of each room."""

    def __init__(self, url: str, ca: str, localpart: str, password: str) -> None:
        config = AsyncClientConfig(encryption_enabled=False, max_limit_exceeded=0, max_timeouts=0)
        context = ssl.create_default_context(cafile=ca)
        self.nio = AsyncClient(url, localpart, config=config, ssl=context)
        self.told: dict[str, list[str]] = {}
        #: nio goes on to hold rooms that were left: what its syncs said of them is all there is.
        self.left: set[str] = set()
        self._password = password

    async def login(self) -> None:
        good(await self.nio.login(self._password, device_name="nio"))

    async def sync(self) -> None:
        # Without a filter the server's own limit of a timeline counts, and gaps are left.
        limit = {"room": {"timeline": {"limit": 50}}}
        answer = good(await self.nio.sync(timeout=POLL_MS, sync_filter=limit))
        self.left |= answer.rooms.leave.keys()
        for room_id, part in answer.rooms.join.items():
            self.left.discard(room_id)
            self.told.setdefault(room_id, []).extend(event.event_id for event in part.timeline.events)

    async def sync_until(self, look: Callable[[], object], what: str) -> None:
        for _ in range(ROUNDS):
            if look():
                step(what)
                return
            await self.sync()
        rooms = json.dumps({room_id: picture(self, room_id) for room_id in self.nio.rooms}, indent=1)
        raise SystemExit(f"not told: {what}\n{rooms}")

    async def say(self, room: str, content: dict[str, Any], kind: str = MESSAGE) -> str:
        return str(good(await self.nio.room_send(room, kind, content)).event_id)

    async def keep(self, content: dict[str, Any], *parts: str) -> None:
        """Put what a user keeps for themselves: nio reads tags, and has no call to set them."""
        path = "/".join(quote(part, safe="") for part in ("user", self.nio.user_id, *parts))
        headers = {"Authorization": f"Bearer {self.nio.access_token}"}
        answer = await self.nio.send("PUT", f"/_matrix/client/v3/{path}", json.dumps(content), headers)
        assert answer.status == 200, await answer.text()

    async def history(self, room: str) -> list[str]:
        """Ids of all events of a room that `room_messages` pages through, oldest first."""
        ids: list[str] = []
        start = None
        for _ in range(ROUNDS):
            page = good(await self.nio.room_messages(room, start, limit=PAGE))
            ids += [event.event_id for event in page.chunk]
            if not page.end or page.end == start:
                return ids[::-1]
            start = page.end
        raise SystemExit(f"no beginning of {room} after {ROUNDS} pages")


def picture(device: Device, room_id: str) -> dict[str, Any]:
    """A room as nio holds it."""
    room = device.nio.rooms[room_id]
    return {
        "name": room.name,
        "shown": room.display_name,
        "topic": room.topic,
        "avatar": room.room_avatar_url,
        "version": room.room_version,
        "rules": (room.join_rule, room.history_visibility, room.guest_access),
        "replacement": room.replacement_room,
        "members": {
            user_id: (member.display_name, member.avatar_url, member.power_level, member.invited)
            for user_id, member in sorted(room.users.items())
        },
        "invited": sorted(room.invited_users),
        "counts": (room.joined_count, room.invited_count, room.member_count),
        "typing": room.typing_users,
        "receipts": {user: receipt.event_id for user, receipt in sorted(room.read_receipts.items())},
        "threaded": {
            user: {thread: receipt.event_id for thread, receipt in sorted(threads.items())}
            for user, threads in sorted(room.threaded_read_receipts.items())
        },
        "fully read": room.fully_read_marker,
        "tags": room.tags,
        "unread": (room.unread_notifications, room.unread_highlights),
    }


class Story:
    """Alice looks by `early`, and in the end by `late`; bob and carol act and do not sync."""

    def __init__(self, early: Device, late: Device, bob: Device, carol: Device) -> None:
        self.early, self.late, self.bob, self.carol = early, late, bob, carol
        self.room = ""
        self.said: list[str] = []

    @property
    def seen(self) -> dict[str, Any]:
        return picture(self.early, self.room)

    def has(self, event_id: str) -> bool:
        return event_id in self.early.told.get(self.room, [])

    async def meet(self) -> None:
        alice, bob = self.early.nio, self.bob.nio
        # A version whose creators have a number for a power level: nio's upgrade asks for one.
        created = await bob.room_create(name="first", room_version="10", invite=[alice.user_id])
        room = self.room = good(created).room_id
        await self.early.sync_until(lambda: room in alice.invited_rooms, "invite")
        assert alice.invited_rooms[room].name == "first"
        assert alice.invited_rooms[room].inviter == bob.user_id
        good(await alice.join(room))
        await self.early.sync_until(lambda: room in alice.rooms, "join")
        assert room not in alice.invited_rooms
        good(await bob.room_put_state(room, "m.room.name", {"name": "second"}))
        good(await bob.update_room_topic(room, "what it is about"))
        good(await bob.room_put_state(room, "m.room.avatar", {"url": "mxc://example.org/room"}))
        good(await bob.set_displayname("Bob"))
        await self.early.sync_until(
            lambda: (
                (self.seen["name"], self.seen["topic"], self.seen["avatar"])
                == ("second", "what it is about", "mxc://example.org/room")
                and self.seen["members"][bob.user_id][0] == "Bob"
            ),
            "name, topic, avatar, profile",
        )

    async def talk(self) -> None:
        alice, bob, room = self.early.nio, self.bob, self.room
        self.said = [await bob.say(room, text(f"message {number}")) for number in range(4)]
        first, second, third, root = self.said
        await bob.say(room, text("for you", **{"m.mentions": {"user_ids": [alice.user_id]}}))
        await self.early.sync_until(lambda: self.seen["unread"] == (5, 1), "messages, unread")
        better = {"m.new_content": text("better"), **relation("m.replace", first)}
        self.edit = await bob.say(room, text("* better", **better))
        self.reaction = await bob.say(room, relation("m.annotation", second, key="👍"), "m.reaction")
        self.answers = [
            await speaker.say(room, text(f"in the thread {number}", **relation("m.thread", root)))
            for number, speaker in enumerate((bob, self.early))
        ]
        self.redaction = good(await bob.nio.room_redact(room, third, "wrong")).event_id
        await self.early.sync_until(lambda: self.has(self.redaction), "edit, reaction, thread, redaction")

    async def receipts(self) -> None:
        alice, bob, room = self.early.nio, self.bob.nio, self.room
        good(await bob.update_receipt_marker(room, self.said[1], ReceiptType.read, "main"))
        good(await bob.update_receipt_marker(room, self.answers[0], ReceiptType.read, self.said[3]))
        good(await bob.room_typing(room, True, 20_000))
        threaded = {"main": self.said[1], self.said[3]: self.answers[0]}
        await self.early.sync_until(
            lambda: (
                self.seen["threaded"].get(bob.user_id) == threaded and self.seen["typing"] == [bob.user_id]
            ),
            "receipts, typing",
        )
        good(await bob.room_typing(room, False))
        good(await alice.room_read_markers(room, self.redaction, self.redaction))
        await self.early.sync_until(
            lambda: (
                (self.seen["typing"], self.seen["unread"], self.seen["fully read"])
                == ([], (0, 0), self.redaction)
            ),
            "typing no more, all read",
        )
        await self.early.keep({"order": 0.25}, "rooms", room, "tags", "m.favourite")
        await self.early.sync_until(lambda: self.seen["tags"] == {"m.favourite": {"order": 0.25}}, "tag")

    async def comings(self) -> None:
        bob, carol, room = self.bob.nio, self.carol.nio, self.room
        good(await bob.room_invite(room, carol.user_id))
        await self.early.sync_until(lambda: carol.user_id in self.seen["invited"], "carol is invited")
        good(await carol.join(room))
        await self.early.sync_until(lambda: not self.seen["invited"], "carol comes")
        good(await bob.room_kick(room, carol.user_id, "enough"))
        await self.early.sync_until(lambda: carol.user_id not in self.seen["members"], "carol is thrown out")
        good(await bob.room_ban(room, carol.user_id))
        good(await bob.room_unban(room, carol.user_id))
        good(await bob.room_leave(room))
        await self.early.sync_until(lambda: self.seen["counts"][0] == 1, "bob leaves")
        good(await self.early.nio.room_invite(room, bob.user_id))
        good(await bob.join(room))
        await self.early.sync_until(lambda: self.seen["counts"][0] == 2, "bob comes back")

    async def thrown_out(self) -> None:
        alice, bob = self.early.nio, self.bob.nio
        left = good(await bob.room_create(name="left", preset=None, invite=[alice.user_id])).room_id
        good(await alice.join(left))
        await self.early.sync_until(lambda: left in alice.rooms, "another room")
        good(await bob.room_kick(left, alice.user_id))
        await self.early.sync_until(lambda: left in self.early.left, "thrown out")
        good(await bob.room_invite(left, alice.user_id))
        good(await alice.join(left))
        heard = await self.bob.say(left, text("again"))
        await self.early.sync_until(lambda: heard in self.early.told[left], "rejoined")
        assert left not in self.early.left

    async def relations(self, device: Device) -> None:
        nio, room = device.nio, self.room
        first, second, third, root = self.said

        async def children(
            event_id: str, kind: RelationshipType | None, limit: int | None = None
        ) -> list[str]:
            found = nio.room_get_event_relations(room, event_id, kind, limit=limit)
            return [event.event_id async for event in found]

        assert await children(first, RelationshipType.replacement) == [self.edit]
        assert await children(second, RelationshipType.annotation) == [self.reaction]
        for limit in (None, 1):
            assert await children(root, RelationshipType.thread, limit) == self.answers[::-1]
        for inclusion in ThreadInclusion:
            roots = [event async for event in nio.room_get_threads(room, inclusion)]
            assert [event.event_id for event in roots] == [root]
            summary = roots[0].source["unsigned"]["m.relations"]["m.thread"]
            assert (summary["count"], summary["current_user_participated"]) == (2, True)
            assert summary["latest_event"]["event_id"] == self.answers[1]
        redacted = good(await nio.room_get_event(room, third)).event
        assert redacted.source["unsigned"]["redacted_because"]["event_id"] == self.redaction
        assert "body" not in redacted.source["content"]

    async def context(self, device: Device, history: list[str]) -> None:
        """What stands around an event is a stretch of the history, and its tokens go on from there."""
        place = history.index(self.said[2])
        found = good(await device.nio.room_context(self.room, self.said[2], limit=6))
        before = [event.event_id for event in found.events_before]
        after = [event.event_id for event in found.events_after]
        assert [*before[::-1], found.event.event_id, *after] == history[place - 3 : place + 4]
        older = good(await device.nio.room_messages(self.room, found.start, limit=3))
        assert [event.event_id for event in older.chunk] == history[place - 6 : place - 3][::-1]

    async def everything(self) -> None:
        early, late, room = self.early, self.late, self.room
        await late.login()
        await late.sync()
        assert set(late.nio.rooms) == set(early.nio.rooms)
        for room_id in early.nio.rooms:
            assert picture(late, room_id) == picture(early, room_id), (
                f"{picture(late, room_id)}\n{picture(early, room_id)}"
            )
        step("the same rooms, by one who came late")
        for device in (early, late):
            joined = good(await device.nio.joined_members(room)).members
            assert {member.user_id for member in joined} == set(early.nio.rooms[room].users)
            assert set(good(await device.nio.joined_rooms()).rooms) == set(early.nio.rooms)
        for room_id in early.nio.rooms:
            history = await early.history(room_id)
            assert history == await late.history(room_id)
            assert len(set(history)) == len(history)
            told = early.told[room_id]
            assert [event_id for event_id in history if event_id in told] == list(dict.fromkeys(told))
        assert await early.history(room) == early.told[room]
        step("members, history")
        for device in (early, late):
            await self.relations(device)
            await self.context(device, early.told[room])
        step("relations, threads, context")

    async def upgrade(self) -> None:
        alice, bob = self.early.nio, self.bob.nio
        next_room = good(await bob.room_upgrade(self.room, "11")).room_id
        await self.early.sync_until(lambda: self.seen["replacement"] == next_room, "tombstone")
        good(await bob.room_invite(next_room, alice.user_id))
        good(await alice.join(next_room))
        await self.early.sync_until(lambda: next_room in alice.rooms, "the new room")
        assert (alice.rooms[next_room].name, alice.rooms[next_room].room_version) == ("second", "11")


async def run(url: str, ca: str, *accounts: str) -> None:
    pairs = [accounts[:2], accounts[:2], accounts[2:4], accounts[4:6]]
    devices = [Device(url, ca, localpart, password) for localpart, password in pairs]
    early, late, bob, carol = devices
    story = Story(early, late, bob, carol)
    try:
        for device in (early, bob, carol):
            await device.login()
        await early.sync()
        step("login and sync")
        await story.meet()
        await story.talk()
        await story.receipts()
        await story.comings()
        await story.thrown_out()
        await story.upgrade()
        await story.everything()
        for device in devices:
            good(await device.nio.logout())
        step("logout")
    finally:
        for device in devices:
            await device.nio.close()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
