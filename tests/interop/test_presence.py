"""Presence arrives on the other side. A server of its own, for others of the suite are spared presence."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.interop.authority import Authority
from tests.interop.client import Client, MakeUser
from tests.interop.servers import Homeserver, make_server, missing
from tests.interop.waiting import eventually

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


@pytest.fixture(scope="module")
def sociable(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Homeserver]:
    """The other server, with presence on."""
    reason = missing("synapse")
    if reason is not None:
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("sociable")
    server = make_server("synapse", directory, authority)
    file = directory / "homeserver.yaml"
    config = {**json.loads(file.read_text()), "presence": {"enabled": True}}
    file.write_text(json.dumps(config))
    server.process.start()
    try:
        yield server
    finally:
        server.process.stop()


async def test_presence(here: Homeserver, sociable: Homeserver, user: MakeUser) -> None:
    alice, bob = await user(here, "alice"), await user(sociable, "bob")
    room = await alice.create_room("10")
    await bob.join(room, here)
    await bob.send(room, "there")
    await alice.hears(room, "there")
    for shown, viewer in ((alice, bob), (bob, alice)):
        for state, text in (("online", "at work"), ("unavailable", "at lunch")):
            body = {"presence": state, "status_msg": text}
            await shown.call("PUT", "presence", shown.user_id, "status", body=body)

            async def seen(
                shown: Client = shown, viewer: Client = viewer, told: tuple[str, str] = (state, text)
            ) -> bool:
                answer = await viewer.call("GET", "presence", shown.user_id, "status")
                return (answer["presence"], answer.get("status_msg")) == told

            await eventually(seen, f"{state} of {shown.user_id}")
