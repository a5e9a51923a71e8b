"""Each law, shown a breach and something that only looks like one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import pytest

from tests.house import laws
from tests.house.tree import Module


def a_module(name: str, source: str = "") -> Module:
    return Module(name, name.replace(".", "/") + ".py", textwrap.dedent(source))


def the_one(breaches: Iterable[str]) -> str:
    found = list(breaches)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("comity.protocol.event", "from comity.ports import Clock"),
        ("comity.ports", "import comity.config"),
        ("comity.store.events", "from comity.rooms import commit"),
        ("comity.store.events", "def late():\n    import comity.rooms.commit"),
        ("comity.rooms.write", "from comity.api import router"),
        ("comity.users.push", "from comity.media import store"),
        ("comity.sync.v3", "from comity.rooms import write"),
        ("comity.sync.v3", "from comity.rooms import read, write"),
        ("comity.api.client.send", "from comity.store import events"),
        ("comity.net.http_server", "from comity.protocol import errors"),
        ("comity.rooms.write", "from comity.app import App"),
        ("comity.app", "from comity.cli import main"),
        ("comity.rooms.write", "from ..api import router"),
    ],
)
def test_an_upward_import(name: str, source: str) -> None:
    others = ["comity.api.router", "comity.rooms.commit", "comity.rooms.read", "comity.rooms.write"]
    tree = [a_module(name, source), *(a_module(other) for other in others if other != name)]
    breach = the_one(laws.forbidden_imports(tree))
    assert breach.startswith(name.replace(".", "/") + ".py:")


def test_a_package_without_a_row() -> None:
    assert "no row" in the_one(laws.forbidden_imports([a_module("comity.helpers", "import re")]))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("comity.protocol.event", "from comity.protocol import errors\nimport hashlib"),
        ("comity.sync.v3", "from comity.rooms import read\nfrom comity.rooms.read import visible"),
        ("comity.app", "from comity.net.system import SystemClock\nfrom comity.store import events"),
        ("comity.cli.serve", "from comity.app import build\nfrom comity.cli import serving"),
        ("comity.__main__", "from comity.cli import main"),
        ("comity.log", "from comity.ports import request_id"),
    ],
)
def test_a_downward_import(name: str, source: str) -> None:
    tree = [a_module(name, source), a_module("comity.rooms.read")]
    assert list(laws.forbidden_imports(tree)) == []


def test_a_cycle() -> None:
    tree = [
        a_module("comity.rooms.room", "from comity.rooms import commit"),
        a_module("comity.rooms.commit", "def late():\n    from comity.rooms.write import write"),
        a_module("comity.rooms.write", "import comity.rooms.room"),
        a_module("comity.rooms.read", "import comity.rooms.room"),
    ]
    assert "comity.rooms.commit -> comity.rooms.write -> comity.rooms.room" in the_one(
        laws.import_cycles(tree)
    )
    assert list(laws.import_cycles(tree[1:])) == []


@pytest.mark.parametrize(
    "source", ["from typing import TYPE_CHECKING", "import typing\nif typing.TYPE_CHECKING: pass"]
)
def test_a_guard(source: str) -> None:
    assert "TYPE_CHECKING" in the_one(laws.guarded_imports(a_module("comity.rooms.room", source)))


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "import random as chance",
        "from os import urandom",
        "import os\nx = os.urandom(4)",
        "import datetime\nx = datetime.datetime.now()",
        "from datetime import datetime\nx = datetime.now()",
        "import asyncio\nasync def f():\n    await asyncio.sleep(1)",
        "import socket",
        "import requests",
        "from urllib import request",
        "import http.client",
        "import aiohttp",
        "from aiohttp import web",
    ],
)
def test_a_door_opened_outside_net(source: str) -> None:
    assert "is an argument" in the_one(laws.banned_calls(a_module("comity.rooms.room", source)))
    assert list(laws.banned_calls(a_module("comity.net.system", source))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import datetime\nx = datetime.datetime.fromtimestamp(0, datetime.UTC)",
        "from urllib.parse import quote",
        "async def f(clock):\n    await clock.sleep(1)",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)",
        "def f(row):\n    return row.time, row.random()",
    ],
)
def test_no_door(source: str) -> None:
    assert list(laws.banned_calls(a_module("comity.rooms.room", source))) == []


@pytest.mark.parametrize(
    "source",
    [
        "async def f(): pass",
        "import logging",
        "from pathlib import Path",
        "import os.path",
        "import aiohttp",
        "from urllib import request",
        "def f(): return open('x')",
        "def f(): print('x')",
    ],
)
def test_impure_rules(source: str) -> None:
    assert "protocol" in the_one(laws.impure_protocol(a_module("comity.protocol.event", source)))
    assert list(laws.impure_protocol(a_module("comity.rooms.room", source))) == []


def test_pure_rules() -> None:
    source = "import hashlib, re\nfrom nacl.signing import VerifyKey\nfrom urllib.parse import quote"
    assert list(laws.impure_protocol(a_module("comity.protocol.signing", source))) == []


def test_a_store_that_waits() -> None:
    source = "async def f(): pass"
    assert "database.py" in the_one(laws.waiting_store(a_module("comity.store.events", source)))
    assert list(laws.waiting_store(a_module("comity.store.database", source))) == []


def test_a_server_that_waits_for_its_database() -> None:
    source = "def f(database): return database.read_now(len)"
    assert "read_now" in the_one(laws.blocking_reads(a_module("comity.rooms.room", source)))
    assert list(laws.blocking_reads(a_module("comity.cli.database", source))) == []


def test_size() -> None:
    function = "def f():\n" + "    x = 1\n" * 69
    assert list(laws.too_large(a_module("comity.rooms.room", function))) == []
    assert "f has 71 lines" in the_one(
        laws.too_large(a_module("comity.rooms.room", function + "    x = 1\n"))
    )
    assert list(laws.too_large(a_module("comity.rooms.room", "x = 1\n" * 500))) == []
    assert "501 lines" in the_one(laws.too_large(a_module("comity.rooms.room", "x = 1\n" * 501)))


def test_a_module_that_does_not_introduce_itself() -> None:
    assert "no docstring" in the_one(laws.no_docstring(a_module("comity.rooms.room", "x = 1")))
    assert list(laws.no_docstring(a_module("comity.rooms"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "from unittest import mock",
        "from unittest.mock import patch",
        "import time\ntime.sleep(1)",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0.1)",
    ],
)
def test_a_shortcut_in_a_test(source: str) -> None:
    the_one(laws.shortcuts_in_tests(a_module("tests.api.test_send", source)))


def test_yielding_to_the_loop_is_no_sleep() -> None:
    source = "import asyncio\nasync def f():\n    await asyncio.sleep(0)"
    assert list(laws.shortcuts_in_tests(a_module("tests.api.test_send", source))) == []


@pytest.mark.parametrize("text", ["a \n", "a\t\n", "no end", "see " + "/wor" + "k/main/x\n"])
def test_untidy_text(text: str) -> None:
    the_one(laws.untidy_text("docs/x.md", text))


@pytest.mark.parametrize("text", ["", "/var/lib/comity/x\n", "a/work/b\n", "$HOME/root/x\n"])
def test_tidy_text(text: str) -> None:
    assert list(laws.untidy_text("docs/x.md", text)) == []


def test_the_map() -> None:
    tree = [a_module("comity.bus"), a_module("comity.log")]
    page = "- `comity/bus.py` positions and wake-ups\n- `comity/gone.py` nothing\n"
    missing, gone = laws.unmapped(tree, page)
    assert "comity/log.py is missing" in missing
    assert "comity/gone.py is listed" in gone


def test_the_table_of_keys() -> None:
    keys = {"log.level": '"info"', "tls.certificate": "", "rooms.default_version": '"12"'}
    page = '| `log.level` | `"debug"` | x |\n| `tls.certificate` |  | x |\n| `old` | `1` | x |\n'
    wrong, missing, old = sorted(laws.undocumented_keys(keys, page), key=len, reverse=True)
    assert "log.level has the default" in wrong
    assert "rooms.default_version is missing" in missing
    assert "old, which is no key" in old
