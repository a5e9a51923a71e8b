"""Extensions of sliding sync: what comes beside rooms, if it is asked for (MSC4186).

Messages from devices, news of keys, account data, receipts, typing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from comity.bus import Bus
from comity.protocol.push_rules import default_rules
from comity.rooms.read.tokens import SyncToken
from comity.store import personal
from comity.store.database import Tx
from comity.sync.asked import Asked, SyncRequest
from comity.sync.devices import MAX_MESSAGES, Devices
from comity.sync.sliding.connections import State
from comity.sync.sliding.wish import WILDCARD, ExtensionWish, Wish
from comity.sync.unread import PUSH_RULES
from comity.users.ephemeral import Ephemeral

#: Digits of a position in a token of to-device messages.
MAX_DIGITS = 11


@dataclass(slots=True)
class Shown:
    """The rooms of one answer: by room id the number, and the ids of the events in its timeline.

    `whole` are those that are told from the beginning, `longer` those of which it has more than the client
    wanted before. `lists` are the rooms in the
    windows of each list, `subscribed` those that are asked for by name.
    """

    rooms: dict[str, int] = field(default_factory=dict)
    timelines: dict[str, list[str]] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    longer: set[str] = field(default_factory=set)
    lists: dict[str, set[str]] = field(default_factory=dict)
    subscribed: set[str] = field(default_factory=set)

    def scope(self, wish: ExtensionWish) -> list[str]:
        """The rooms that an extension is about: of those that are looked at."""
        if wish.lists is None and wish.rooms is None:
            return list(self.rooms)
        found: set[str] = set()
        for name, rooms in self.lists.items():
            if wish.lists is None or not wish.lists.isdisjoint((name, WILDCARD)):
                found |= rooms
        if wish.rooms is None or WILDCARD in wish.rooms:
            found |= self.subscribed
        # MSC3960: one that is named may also be in a list alone.
        found.update(wish.rooms.intersection(self.rooms) if wish.rooms is not None else ())
        return sorted(found)


def to_device_since(wish: Wish) -> SyncToken | None:
    """Up to where the client has messages from devices. Raises 400 M_INVALID_PARAM."""
    asked = wish.extensions.get("to_device")
    if asked is None or asked.since is None:
        return None
    if asked.since.isascii() and asked.since.isdigit() and len(asked.since) <= MAX_DIGITS:
        return SyncToken(int(asked.since))
    # COMPAT: apps that came from /sync have its token as that of their messages.
    return SyncToken.parse(asked.since)


def understood(wish: Wish, position: int) -> Wish:
    """The wish as a log that ends at `position` can answer it.

    A token of messages from devices beyond it is of a database that is lost: it acknowledges nothing.
    Raises 400 M_INVALID_PARAM.
    """
    since = to_device_since(wish)
    if since is None or not since.is_beyond(position):
        return wish
    from_the_start = replace(wish.extensions["to_device"], since=None)
    return replace(wish, extensions={**wish.extensions, "to_device": from_the_start})


class Extensions:
    """Fills in the extensions of answers."""

    def __init__(self, devices: Devices, ephemeral: Ephemeral, bus: Bus) -> None:
        self._devices = devices
        self._ephemeral = ephemeral
        self._bus = bus

    def fill(
        self, tx: Tx, asked: Asked, wish: Wish, state: State, shown: Shown
    ) -> tuple[dict[str, Any], bool]:
        """(the answer's `extensions`, whether there is any news).

        `state`, which is changed to what the client knows then, is that before the answer:
        `state.position` is up to where it was told.
        """
        told: dict[str, Any] = {}
        is_news = False
        wanted: Mapping[str, ExtensionWish] = wish.extensions
        _leave_unwanted(state, asked.now, wanted)
        if "to_device" in wanted or "e2ee" in wanted:
            is_news = self._from_devices(tx, asked, wish, state, told)
        mine = state.position == 0 or self._bus.changed((asked.user_id,), state.position)
        if "account_data" in wanted:
            scope = shown.scope(wanted["account_data"])
            events, rooms = self._account_data(tx, asked, state, scope, mine=mine)
            told["account_data"] = {"global": events, "rooms": rooms}
            is_news = is_news or bool(events or rooms)
        if "receipts" in wanted:
            found = self._receipts(tx, asked, state, shown, shown.scope(wanted["receipts"]))
            told["receipts"] = {"rooms": found}
            is_news = is_news or bool(found)
        if "typing" in wanted:
            typing = self._typing(asked, state, shown.scope(wanted["typing"]))
            told["typing"] = {"rooms": typing}
            is_news = is_news or bool(typing)
        return told, is_news

    # -- devices

    def _from_devices(self, tx: Tx, asked: Asked, wish: Wish, state: State, told: dict[str, Any]) -> bool:
        is_news = False
        if "to_device" in wish.extensions:
            # Its messages go by a token of their own: what is acknowledged by it is gone.
            limit = min(wish.extensions["to_device"].limit or MAX_MESSAGES, MAX_MESSAGES)
            since = to_device_since(wish)
            request = SyncRequest(asked.user_id, asked.request.device_id, since)
            here = Asked(request, asked.now, asked.typing_serial)
            messages, upto = self._devices.messages(tx, here, limit)
            place = str(asked.now if upto is None else upto)
            if since is not None and not messages:
                # Who has nothing to acknowledge asks in the same words again, which need not be read anew.
                place = wish.extensions["to_device"].since or place
            told["to_device"] = {"next_batch": place, "events": messages}
            is_news = bool(messages)
            if upto is not None:
                state.answered = 0
        if "e2ee" in wish.extensions:
            user_id, device_id = asked.user_id, asked.request.device_id
            changed, left = self._devices.lists(tx, user_id, state.devices, asked.now)
            kept = self._devices.counts.get(tx, user_id, device_id)
            keys = (tuple(sorted(kept.one_time.items())), tuple(sorted(kept.fallbacks)))
            told["e2ee"] = {
                "device_one_time_keys_count": kept.one_time,
                "device_unused_fallback_key_types": kept.fallbacks,
            }
            if changed or left:
                told["e2ee"]["device_lists"] = {"changed": changed, "left": left}
            is_news = is_news or bool(changed or left) or keys != state.keys
            state.keys, state.devices = keys, asked.now
        return is_news

    async def acknowledge(self, request: SyncRequest) -> None:
        """The device has the messages before the token that it gives."""
        await self._devices.acknowledge(request)

    # -- account data

    def _account_data(
        self, tx: Tx, asked: Asked, state: State, scope: Collection[str], *, mine: bool
    ) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
        events: list[dict[str, Any]] = []
        rooms: dict[str, list[dict[str, Any]]] = {}
        known = state.account_data
        if not state.has_global:
            changed = [
                ("", kind, text)
                for kind, text in personal.room_account_data(tx, asked.user_id, "", asked.now)
            ]
            if all(kind != PUSH_RULES for _, kind, _ in changed):
                # client-server §Push Rules: the rules are account data, predefined ones included.
                rules = orjson.dumps({"global": default_rules(asked.user_id)}).decode()
                changed.append(("", PUSH_RULES, rules))
        elif mine:
            changed = personal.account_data_since(tx, asked.user_id, state.position, asked.now)
        else:
            changed = []
        wanted = set(scope)
        for room_id, kind, text in changed:
            event = {"type": kind, "content": orjson.Fragment(text)}
            if not room_id:
                events.append(event)
            elif room_id in wanted and room_id in known:
                rooms.setdefault(room_id, []).append(event)
            else:
                # Out of sight now: told whole when it is seen again.
                known = known - {room_id}
        new = wanted - known
        if new:
            for room_id, kind, text in personal.all_room_account_data(tx, asked.user_id, asked.now):
                if room_id in new:
                    event = {"type": kind, "content": orjson.Fragment(text)}
                    rooms.setdefault(room_id, []).append(event)
            known = known | new
        state.account_data, state.has_global = known, True
        return events, rooms

    # -- receipts, typing

    def _receipts(
        self, tx: Tx, asked: Asked, state: State, shown: Shown, scope: Collection[str]
    ) -> dict[str, Any]:
        known, until, found = state.receipts, state.receipts_until, dict[str, Any]()
        wanted, missed = set(scope), set[str]()
        changed = self._bus.keys_after(state.position)
        suspects = known if changed is None else known.intersection(changed)
        for room_id in suspects:
            if room_id in wanted:
                content = personal.receipts_since(
                    tx, shown.rooms[room_id], state.position, asked.now, asked.user_id
                )
                if content is not None:
                    found[room_id] = _receipt(content)
            else:
                missed.add(room_id)
        new = wanted - state.receipts
        for room_id in new | (wanted & shown.longer):
            # Of a room that was told of before, what is new counts wherever it is.
            if room_id not in new:
                after = state.position
            else:
                after = until.get(room_id, asked.now if room_id in shown.whole else 0)
            content = personal.receipts_on(
                tx, shown.rooms[room_id], shown.timelines.get(room_id, []), after, asked.now, asked.user_id
            )
            if content is not None:
                found[room_id] = _receipt(content)
        if missed or new:
            left = {room_id: position for room_id, position in until.items() if room_id not in new}
            state.receipts_until = {**left, **dict.fromkeys(missed, state.position)}
            state.receipts = (known - missed) | new
        return found

    def _typing(self, asked: Asked, state: State, scope: Collection[str]) -> dict[str, Any]:
        """Who types, where the client does not know it: also in rooms that it looks at again."""
        found: dict[str, Any] = {}
        wanted, told = set(scope), dict(state.typing)
        for room_id in wanted.intersection({*self._ephemeral.busy_rooms(), *told}):
            serial, typing = self._ephemeral.typing(room_id)
            users = [user_id for user_id in typing if user_id not in asked.ignored]
            if serial == told.get(room_id) or not (users or room_id in told):
                continue
            found[room_id] = {"type": "m.typing", "content": {"user_ids": users}}
            if users:
                told[room_id] = serial
            else:
                del told[room_id]
        if found:
            state.typing = told
        return found


def _leave_unwanted(state: State, now: int, wanted: Collection[str]) -> None:
    """Take from the state what is not followed in this answer: account data is told whole when it is wanted
    again, of receipts and devices what was missed. Those count from the beginning of the connection.
    """
    if not state.devices:
        state.devices = now
    if "account_data" not in wanted and state.has_global:
        state.account_data, state.has_global = frozenset(), False
    if "receipts" not in wanted and state.receipts:
        state.receipts_until = {**state.receipts_until, **dict.fromkeys(state.receipts, state.position)}
        state.receipts = frozenset()


def _receipt(content: bytes) -> dict[str, Any]:
    return {"type": "m.receipt", "content": orjson.Fragment(content)}
