"""What we tell of other servers' keys, as a notary (server-server §Querying Keys Through Another Server).

Owns the bounds: anybody may ask, and for each server that is named we may have to ask there first.
What we tell is what the servers themselves published, signed by us beside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from comity.federation.keyring import Keyring
from comity.ports import Clock
from comity.protocol import canonical_json, identifiers
from comity.store import keys as stored_keys
from comity.store.database import Database
from comity.store.keys import KeyDocument

#: Servers that one request may ask for; of more, the first are answered.
MAX_SERVERS_PER_REQUEST = 1_000
#: Of those, servers that are asked themselves, if what we have is not enough.
MAX_ASKED_PER_REQUEST = 100
#: Bytes of one answer: a thousand ordinary documents of a kilobyte, and room for some that are large.
MAX_ANSWER_BYTES = 4 * 1024 * 1024
#: Seconds in which the servers asked for may answer; the rest is told from the store.
FETCH_SECONDS = 10.0
#: Requests that wait for other servers at once; more are answered from the store alone.
MAX_WAITING_REQUESTS = 64
#: For how long after it was fetched a document is told without asking its server anew: others believe
#: it for 7 days from when they hear it (rooms/v5), and a key may be withdrawn at any time.
TOLD_UNASKED_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked about one server: keys, these among them, valid until then (ms since the epoch)."""

    until: int
    key_ids: frozenset[str] = frozenset()


class Notary:
    """Key documents of any servers, signed by us."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock, server_name: str) -> None:
        """`server_name` is ours."""
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._server_name = server_name
        self._waiting = 0

    async def documents(self, wanted: Mapping[str, Wanted]) -> list[bytes]:
        """The key documents of the wanted servers, as JSON; nothing for those that we cannot get.

        Servers whose document we do not have, or without what is wanted, are asked for it.
        """
        names = [name for name in wanted if identifiers.is_server_name(name)][:MAX_SERVERS_PER_REQUEST]
        others = [name for name in names if name != self._server_name]
        known: dict[str, KeyDocument] = {}
        if others:
            known = await self._database.read(lambda tx: stored_keys.documents(tx, others))
        lacking = [name for name in others if not self._is_enough(known.get(name), wanted[name])]
        known |= await self._asked(lacking[:MAX_ASKED_PER_REQUEST])
        told = [await self._keyring.key_document()] if self._server_name in names else []
        size = 0
        for name in others:
            if name not in known:
                continue
            signed = self._keyring.countersigned(orjson.loads(known[name].document))
            told.append(canonical_json.encode(signed))
            size += len(told[-1])
            if size > MAX_ANSWER_BYTES:
                break
        return told

    def _is_enough(self, known: KeyDocument | None, wanted: Wanted) -> bool:
        if known is None or known.valid_until < wanted.until:
            return False
        if not 0 <= self._clock.now_ms() - known.fetched_at <= TOLD_UNASKED_MS:
            return False
        if not wanted.key_ids:
            return True
        document = orjson.loads(known.document)
        held = {*document["verify_keys"], *document.get("old_verify_keys", ())}
        return wanted.key_ids <= held

    async def _asked(self, servers: list[str]) -> dict[str, KeyDocument]:
        """What these servers answer now, if they do."""
        if not servers or self._waiting >= MAX_WAITING_REQUESTS:
            return {}
        self._waiting += 1
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                await self._keyring.refresh(servers)
        except TimeoutError:
            pass  # what came in time is told; the rest comes for who asks again
        finally:
            self._waiting -= 1
        # As a write it comes after those that stored what was fetched.
        return await self._database.write(lambda tx: stored_keys.documents(tx, servers))
