"""matrix-nio, an ordinary client library in Python, against the server under test."""

from __future__ import annotations

import os

import pytest

from tests.interop.client import PASSWORD, MakeUser
from tests.interop.programs import CLIENTS, run_program
from tests.interop.servers import INSTALL_HINT, Homeserver, nio_python

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


async def test_nio(here: Homeserver, user: MakeUser) -> None:
    python = nio_python()
    if python is None:
        pytest.skip(f"no matrix-nio: {INSTALL_HINT}")
    accounts = []
    for name in ("alice", "bob"):
        client = await user(here, name)
        accounts += [client.user_id.split(":")[0][1:], PASSWORD]
    told = await run_program(
        [str(python), str(CLIENTS / "nio_client.py"), here.base_url, str(here.authority.ca), *accounts],
        os.environ,
    )
    assert told[-1] == "leave, forget, logout"
