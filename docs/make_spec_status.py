"""Brings docs/spec-status.md up to date: which operations of the specification are served, and their tests.

    .venv/bin/python docs/make_spec_status.py [RECORDING]        (or: make spec-status)

What the specification has comes from tests/data/operations.json (docs/distil_spec.py), what is served
from the routes of a server that is built here, and which test calls what from tests/data/served.json.
That file is brought up to date, too: with operations that are served now, and with a RECORDING, which
any run of tests writes where COMITY_RECORD_SERVED names a file. It never loses an operation by itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from tempfile import TemporaryDirectory

from comity.api.router import Router
from comity.app import build
from comity.config import loads, signing_key
from comity.net.dns import DnsResolver
from comity.net.http_client import HttpsTransport
from comity.net.pausing import GreenletPausing
from comity.net.system import SystemClock, SystemEntropy, ThreadOffload
from comity.ports import Ports
from tests import recording
from tests.specification import DATA, LIKE, Operation, operations, shape

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "spec-status.md"
SERVED = DATA / "served.json"
#: Everything that is optional is on, so that every route is there.
CONFIGURATION = """
server_name = "example.org"
data_dir = "."
[registration]
shared_secret = "of this page alone"
[policy]
enabled = true
[oauth]
enabled = true
"""
#: The tables of the page, and which files of the client-server API's description go into each.
FAMILIES = {
    "Server": "capabilities support versions wellknown policy_server oauth_server_metadata voip",
    "Accounts and sessions": "account_deactivation administrative_contact device_management login "
    "login_token logout openid password_management profile refresh registration registration_tokens "
    "sso_login_redirect users whoami",
    "Rooms and their members": "banning create_room directory inviting joining kicking knocking leaving "
    "list_joined_rooms list_public_rooms mutual_rooms room_summary room_upgrades space_hierarchy "
    "third_party_membership",
    "Timeline": "event_context message_pagination peeking_events redaction relations report_content "
    "room_event_by_timestamp room_initial_sync room_send room_state rooms search threads_list",
    "Sync and what is personal": "account-data filter notifications old_sync presence pusher pushrules "
    "read_markers receipts sync tags typing",
    "Keys": "cross_signing key_backup keys to_device",
    "Media": "authed-content-repo content-repo",
    "Administration and bridges": "admin appservice_ping appservice_room_directory third_party_lookup",
}
FEDERATION = "Federation"
BEYOND = "Beyond the specification"
HEAD = """# What is served of the specification

Every operation of the client-server and server-server APIs, whether comity serves it, and the tests that call
it. *Empty* is what answers in the specification's words that there is nothing: no media, no pushers. The
tests are those that run comity in their own process; for those with other people's software see
[federation.md](federation.md).

Made by `make spec-status` from the routes themselves; `tests/house` holds this page against them, and lets no
operation go that was served once. The tests of the client-server API hold every answer against the
specification's schema ([decision 17](decisions/0017-answers-are-held-against-the-specification.md)).
"""
#: Operations that are answered, and never with more than that there is nothing.
EMPTY = frozenset(
    {
        "client-server getTurnServer", "client-server getProtocols",
        "client-server getPushers", "client-server postPusher",
        "server-server getContent", "server-server getContentThumbnail",
        "client-server getProtocolMetadata", "client-server queryLocationByProtocol",
        "client-server queryUserByProtocol", "client-server queryLocationByAlias",
        "client-server queryUserByID",
    }
)  # fmt: skip
SERVED_STATE, EMPTY_STATE, MISSING_STATE = "served", "empty", "**missing**"
#: More tests than these are counted.
MOST_TESTS = 4


async def routes() -> Router:
    """The routes of a server with everything on, which is built and never started."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "signing.key").write_text(signing_key.render("a1", bytes(32)))
        transport = HttpsTransport(trusted_ca=(), verify_certificates=True, allow_ranges=(), user_agent="")
        offload = ThreadOffload()
        app = build(
            loads(CONFIGURATION, folder),
            Ports(SystemClock(), SystemEntropy(), transport, DnsResolver(), offload, GreenletPausing()),
        )
        await app.stop()
        await offload.close()
        return app.router


def shapes(router: Router) -> frozenset[tuple[str, str]]:
    """(method, path without the variables' names) of every route."""
    return frozenset((method, shape(template)) for method, template in router.templates())


def is_served(operation: Operation, there: AbstractSet[tuple[str, str]]) -> bool:
    """Whether a route answers an operation."""
    return (operation.method, shape(operation.path)) in there


def state_of(operation: Operation, there: AbstractSet[tuple[str, str]]) -> str:
    """How the page says what becomes of an operation."""
    if not is_served(operation, there):
        return MISSING_STATE
    return EMPTY_STATE if operation.name in EMPTY else SERVED_STATE


def gone(served: Mapping[str, list[str]], router: Router) -> list[str]:
    """The operations that were served and are no more."""
    now = {operation.name for operation in operations() if is_served(operation, shapes(router))}
    return sorted(served.keys() - now)


def renewed(
    served: Mapping[str, list[str]], router: Router, recorded: AbstractSet[tuple[str, str, str]]
) -> dict[str, list[str]]:
    """operation -> the tests that call it; what is recorded replaces what was known of the same tests."""
    there, ran = shapes(router), {test for _, _, test in recorded}
    calls: dict[tuple[str, str], set[str]] = {}
    for method, template, test in recorded:
        # What is found under the oldest version too is the same operation there.
        place = shape(template.replace("/_matrix/client/r0/", "/_matrix/client/v3/"))
        calls.setdefault((method, LIKE.get(place, place)), set()).add(test)
    found = {name: set(tests) for name, tests in served.items()}
    for operation in operations():
        if is_served(operation, there):
            before = {test for test in found.get(operation.name, set()) if (ROOT / test).exists()} - ran
            found[operation.name] = before | calls.get((operation.method, shape(operation.path)), set())
    return {name: sorted(tests) for name, tests in sorted(found.items())}


def page(served: Mapping[str, list[str]], router: Router) -> str:
    """The page."""
    there = shapes(router)
    families: dict[str, list[Operation]] = {family: [] for family in [*FAMILIES, FEDERATION]}
    for operation in operations():
        families[family_of(operation)].append(operation)
    totals = [
        "| | operations | served | empty | missing | missing, deprecated |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    tables: list[str] = []
    for family, members in families.items():
        states = [state_of(operation, there) for operation in members]
        counts = [len(states), *(states.count(state) for state in (SERVED_STATE, EMPTY_STATE, MISSING_STATE))]
        old = sum(
            operation.deprecated
            for operation, state in zip(members, states, strict=True)
            if state == MISSING_STATE
        )
        cells = " | ".join(map(str, [*counts, old]))
        totals.append(f"| [{family}](#{family.lower().replace(' ', '-')}) | {cells} |")
        tables += ["", f"## {family}", "", "| operation | | tests |", "|---|---|---|"]
        tables += [row(operation, served, there) for operation in members]
    known = {(operation.method, shape(operation.path)) for operation in operations()}
    known |= {(method, like) for like, place in LIKE.items() for method, path in known if path == place}
    tables += [
        "",
        f"## {BEYOND}",
        "",
        "And `r0` for `v3`, as of old, in every path of the client-server API.",
    ]
    tables.append("")
    tables += [
        f"- `{method} {template}`"
        for method, template in sorted(router.templates(), key=lambda route: (route[1], route[0]))
        if (method, shape(template)) not in known and "/client/r0/" not in template
    ]
    return "\n".join([HEAD, *totals, *tables]) + "\n"


def row(operation: Operation, served: Mapping[str, list[str]], there: AbstractSet[tuple[str, str]]) -> str:
    """The line of one operation."""
    tests = [test.removeprefix("tests/").removesuffix(".py") for test in served.get(operation.name, [])]
    shown = ", ".join(f"`{test}`" for test in tests[:MOST_TESTS])
    if len(tests) > MOST_TESTS:
        shown += f" and {len(tests) - MOST_TESTS} more"
    state = state_of(operation, there)
    old = ", deprecated" if operation.deprecated else ""
    return f"| `{operation.method} {operation.path}` {operation.id} | {state}{old} | {shown} |"


def family_of(operation: Operation) -> str:
    """The table that an operation stands in. Exits if a file of the specification has none."""
    if operation.api == "server-server":
        return FEDERATION
    for family, files in FAMILIES.items():
        if operation.file in files.split():
            return family
    sys.exit(f"docs/make_spec_status.py has no family for {operation.file}.yaml")


def known_tests() -> dict[str, list[str]]:
    """operation -> the tests that call it, as the file has them."""
    served: dict[str, list[str]] = json.loads(SERVED.read_text("utf-8")) if SERVED.exists() else {}
    return served


def main(path: Path | None) -> None:
    """Write the file and the page."""
    router = asyncio.run(routes())
    lines = [] if path is None else path.read_text("utf-8").splitlines()
    served = renewed(known_tests(), router, recording.read(lines))
    SERVED.write_text(json.dumps(served, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(served, router), encoding="utf-8")
    for name in gone(served, router):
        print(
            f"{name} was served and is no more: if that is meant, take it out of {SERVED.relative_to(ROOT)}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
