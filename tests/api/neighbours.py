"""Two or three servers on one network, with users, and what one of them may ask another directly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from comity.federation.calls import MakeAnswer
from comity.federation.client import FederationClient
from comity.federation.errors import FederationError
from comity.protocol.event import Event
from comity.rooms.join import Templates
from tests.api.support_rooms import Network, Place, networked_place
from tests.engines import quiet

#: Turns given to other tasks while servers talk: far more than any exchange needs.
MANY_TURNS = 2_000
FEDERATION = "/_matrix/federation"


def name_of(port: int) -> str:
    """The name of the server at a port."""
    return f"192.0.2.1:{port}"


@asynccontextmanager
async def neighbours(
    directory: Path, count: int = 2, *, network: Network | None = None, **settings: str
) -> AsyncIterator[list[Place]]:
    """So many servers, at the ports 1, 2, …; `settings` is configuration text by port (`p1=…`)."""
    network = network or Network()
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                networked_place(directory / str(port), network, port, settings.get(f"p{port}", ""))
            )
            for port in range(1, count + 1)
        ]


async def settle(*places: Place) -> None:
    """Let the servers tell each other everything, retries included."""
    for place in places:
        await place.clock.turn(3_600)
    await quiet(MANY_TURNS)


def client_of(place: Place) -> FederationClient:
    """What signs a server's requests."""
    return place.app._federation.calls._client


async def ask_as(
    place: Place, server: str, method: str, path: str, content: dict[str, Any] | None = None, **query: object
) -> Any:
    """The JSON that `server` answers to a request signed by the server of `place`."""
    pairs: list[tuple[str, str]] = []
    for name, value in query.items():
        values = value if isinstance(value, list) else [value]
        pairs.extend((name, str(item)) for item in values)
    body = await client_of(place).request(
        server, method, FEDERATION + path, query=pairs, content=content, even_if_backing_off=True
    )
    return orjson.loads(body)


async def refusal(attempt: Any) -> tuple[int | None, str | None]:
    """(status, code) with which a server refuses."""
    try:
        await attempt
    except FederationError as error:
        return error.status, error.code
    return 200, None


def signed(place: Place, answer: Mapping[str, Any], user_id: str, content: Mapping[str, Any]) -> Event:
    """A server's own membership event on another's template."""
    templates: Templates = place.app._rooms.knocks._templates
    made = MakeAnswer(answer["room_version"], answer["event"])
    return templates.sign(made, "elsewhere", answer["event"]["room_id"], user_id, content)
