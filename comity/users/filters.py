"""Filters that clients keep here (client-server §Filtering); what they mean is `protocol.filters`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from comity.protocol import canonical_json
from comity.protocol.errors import MatrixError, not_found, too_large
from comity.protocol.filters import NO_FILTER, Filter, parse_filter, parse_text
from comity.store import personal
from comity.store.cache import Bounded
from comity.store.database import Database, Tx, WriteTx

#: A filter's JSON: room for thousands of room ids.
MAX_FILTER_BYTES = 256 * 1024
#: Filters of one user; clients use a handful, and the same ones have the same id.
MAX_FILTERS = 1_000
ID_CHARACTERS = 20
#: Filters that are remembered as they were parsed (clients repeat theirs with every request), and the
#: longest of them: some 10 MiB at most.
MAX_PARSED, MAX_REMEMBERED = 500, 4_000


class Filters:
    """The filters of local users."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: By the JSON, or by user and id.
        self._parsed: Bounded[str, Filter] = Bounded(MAX_PARSED)

    async def create(self, user_id: str, definition: Mapping[str, Any]) -> str:
        """Keep a filter; the same definition has the same id.

        Raises 400 M_BAD_JSON or M_INVALID_PARAM for what is no filter, 413 M_TOO_LARGE.
        """
        parse_filter(definition)
        text = canonical_json.encode(definition)
        if len(text) > MAX_FILTER_BYTES:
            raise too_large(f"A filter has at most {MAX_FILTER_BYTES} bytes")
        filter_id = hashlib.sha256(text).hexdigest()[:ID_CHARACTERS]

        def is_known(tx: Tx) -> bool:
            return personal.filter_definition(tx, user_id, filter_id) is not None

        def store(tx: WriteTx) -> None:
            if is_known(tx):
                return
            if personal.count_filters(tx, user_id) >= MAX_FILTERS:
                raise MatrixError(400, "M_UNKNOWN", f"A user has at most {MAX_FILTERS} filters")
            personal.put_filter(tx, user_id, filter_id, text.decode())

        # Clients make theirs anew at every start, which needs no write.
        if not await self._database.look_up(is_known):
            await self._database.write(store)
        return filter_id

    async def get(self, user_id: str, filter_id: str) -> bytes:
        """The JSON of a filter. Raises 404 M_NOT_FOUND."""
        definition = await self._database.look_up(
            lambda tx: personal.filter_definition(tx, user_id, filter_id)
        )
        if definition is None:
            raise not_found("There is no such filter")
        return definition.encode()

    def remembered(self, user_id: str, text: str) -> Filter | None:
        """The same as `parsed`, where nothing need be read or parsed for it."""
        if not text:
            return NO_FILTER
        return self._parsed.peek(text if text.startswith("{") else f"{user_id} {text}")

    async def parsed(self, user_id: str, text: str) -> Filter:
        """The filter that a /sync names (client-server §Filtering): JSON in braces, else an id.

        Raises 404 M_NOT_FOUND, 400 M_BAD_JSON and others for what is no filter.
        """
        if not text:
            return NO_FILTER
        # What is kept under an id is never changed.
        key = text if text.startswith("{") else f"{user_id} {text}"
        known = self._parsed.get(key)
        if known is None:
            # Of a definition there is one object, whoever names it: those who ask alike are given alike.
            if text.startswith("{"):
                whole, definition = text, parse_text(text)
            else:
                whole = (await self.get(user_id, text)).decode()
                definition = parse_text(whole, MAX_FILTER_BYTES)
            known = self._parsed.get(whole) or parse_filter(definition)
            if len(whole) <= MAX_REMEMBERED:
                self._parsed.put(whole, known)
                self._parsed.put(key, known)
        return known
