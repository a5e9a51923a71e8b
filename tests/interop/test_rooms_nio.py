"""matrix-nio on two devices of one account, one from the beginning and one that comes late.

Other users act meanwhile. What a device was told bit by bit must be what another is told at once.
"""

from __future__ import annotations

import os

import pytest

from tests.interop.client import PASSWORD, MakeUser
from tests.interop.programs import CLIENTS, run_program
from tests.interop.servers import INSTALL_HINT, Homeserver, nio_python

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


async def test_early_and_late_hold_the_same(here: Homeserver, user: MakeUser) -> None:
    python = nio_python()
    if python is None:
        pytest.skip(f"no matrix-nio: {INSTALL_HINT}")
    accounts = []
    for name in ("alice", "bob", "carol"):
        client = await user(here, name)
        accounts += [client.user_id.split(":")[0][1:], PASSWORD]
    told = await run_program(
        [str(python), str(CLIENTS / "nio_rooms.py"), here.base_url, str(here.authority.ca), *accounts],
        os.environ,
    )
    assert told[-1] == "logout"
