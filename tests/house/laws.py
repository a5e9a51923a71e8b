"""The laws, each a function from source to the sentences that say where it is broken.

DESIGN §2 (imports), §6 (habits). A law takes what it judges as an argument, so that
`test_laws_can_fail.py` can show it a breach.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

from tests.house.tree import Module, imports

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70

#: DESIGN §2: what each package may import of comity beside itself. A name with a dot allows that
#: module alone. `ports` names shapes that the rest of its row may use (the request id in the logs);
#: the law against cycles keeps the row in order.
_BASE = ("protocol", "ports", "bus", "config", "log", "background")
_SERVICES = (*_BASE, "federation", "rooms", "users", "media", "appservice", "sync")
MAY_IMPORT: Mapping[str, tuple[str, ...]] = {
    "protocol": (),
    "ports": ("protocol",),
    "bus": ("protocol", "ports"),
    "background": (),
    "config": ("protocol", "ports"),
    "log": ("protocol", "ports", "config"),
    "store": _BASE,
    "federation": (*_BASE, "store"),
    "rooms": (*_BASE, "store", "federation"),
    "users": (*_BASE, "store", "federation", "rooms"),
    "media": (*_BASE, "store", "federation", "rooms"),
    "appservice": (*_BASE, "store", "federation", "rooms"),
    "sync": ("protocol", "bus", "store", "rooms.read", "users.ephemeral"),
    "api": _SERVICES,
    "web": (*_SERVICES, "api"),
    "net": ("ports", "config", "log"),
    "app": ("*",),
    "cli": ("*",),
    "__main__": ("cli",),
}

#: What `protocol` may use beside the pure standard library: JSON and ed25519.
PROTOCOL_LIBRARIES = frozenset({"msgspec", "orjson", "nacl"})
#: The only modules of the store that wait, and those that may read before anything is served.
WAITING_STORE = frozenset({"comity.store.database", "comity.store.sqlite", "comity.store.postgres"})
BLOCKING_AT_START = frozenset({"comity.app", "comity.rooms.system"})
#: Parts of the standard library that reach outside the process or past the moment.
IMPURE = frozenset(
    "asyncio concurrent ctypes fcntl glob http importlib io logging mmap multiprocessing os pathlib "
    "pickle queue random sched secrets select selectors shutil signal socket socketserver sqlite3 ssl "
    "subprocess sys tempfile threading time urllib.request uuid warnings zoneinfo".split()
)
IMPURE_CALLS = frozenset({"__import__", "eval", "exec", "input", "open", "print"})

_CLOCK = "time is an argument (comity.ports.Clock)"
_CHANCE = "chance is an argument (comity.ports.Entropy)"
_NETWORK = "the network is an argument (comity.ports.Transport, Resolver)"
#: Modules that only `comity/net` imports, with the reason.
BANNED_MODULES = {
    "time": _CLOCK,
    "random": _CHANCE,
    "secrets": _CHANCE,
    "uuid": _CHANCE,
    **dict.fromkeys(
        "socket socketserver ssl select selectors http.client http.server urllib.request ftplib smtplib "
        "aiohttp dns httpx requests urllib3 websockets".split(),
        _NETWORK,
    ),
}
#: Names that only `comity/net` uses, by their last two parts.
BANNED_NAMES = {
    "os.urandom": _CHANCE,
    "os.getrandom": _CHANCE,
    "datetime.now": _CLOCK,
    "datetime.utcnow": _CLOCK,
    "datetime.today": _CLOCK,
    "date.today": _CLOCK,
    "asyncio.sleep": _CLOCK,
    "asyncio.open_connection": _NETWORK,
    "asyncio.start_server": _NETWORK,
}


def part_of(name: str) -> str:
    """The row of the import table that a module of comity stands in; "" for `comity` itself."""
    return name.split(".")[1] if "." in name else ""


def forbidden_imports(modules: Sequence[Module]) -> Iterator[str]:
    """DESIGN §2: imports go strictly downward."""
    known = frozenset(module.name for module in modules)
    for module in modules:
        own = part_of(module.name)
        if own and own not in MAY_IMPORT:
            yield f"{module.path}: {own!r} has no row in the import table (DESIGN §2, tests/house/laws.py)"
            continue
        for node, target in imports(module, known):
            if target.split(".")[0] != "comity":
                continue
            theirs = part_of(target)
            if theirs in ("", own) or _allows(MAY_IMPORT.get(own, ()), target):
                continue
            permitted = ", ".join(MAY_IMPORT.get(own, ())) or "nothing of comity"
            yield f"{module.at(node)}: {own or 'comity'} imports {target}; it may import {permitted}"


def _allows(permitted: tuple[str, ...], target: str) -> bool:
    inside = target.removeprefix("comity.")
    if part_of(target) in ("app", "cli"):
        return part_of(target) in permitted or (permitted == ("*",) and part_of(target) == "app")
    return permitted == ("*",) or any(inside == name or inside.startswith(name + ".") for name in permitted)


def import_cycles(modules: Sequence[Module]) -> Iterator[str]:
    """No module reaches itself, whatever the table allows inside a package."""
    known = frozenset(module.name for module in modules)
    graph = {
        module.name: sorted(
            {target for _, target in imports(module, known) if target in known} - {module.name}
        )
        for module in modules
    }
    done: set[str] = set()
    for start in sorted(graph):
        path: list[str] = []
        on_path: set[str] = set()
        # Depth first without recursion: an entry of the stack is a module and what it still has to try.
        stack = [(start, iter(graph[start]))] if start not in done else []
        while stack:
            name, targets = stack[-1]
            if name not in on_path:
                path.append(name)
                on_path.add(name)
            for target in targets:
                if target in on_path:
                    yield "a cycle of imports: " + " -> ".join([*path[path.index(target) :], target])
                elif target not in done:
                    stack.append((target, iter(graph[target])))
                    break
            else:
                stack.pop()
                path.pop()
                on_path.discard(name)
                done.add(name)


def guarded_imports(module: Module) -> Iterator[str]:
    """No TYPE_CHECKING: a guard hides a cycle."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name | ast.Attribute | ast.alias) and "TYPE_CHECKING" in (
            getattr(node, "id", ""),
            getattr(node, "attr", ""),
            getattr(node, "name", ""),
        ):
            yield f"{module.at(node)}: TYPE_CHECKING hides an upward import; move what both need down"


def banned_calls(module: Module) -> Iterator[str]:
    """DESIGN §6.5: time, chance and network are arguments; only `comity/net` opens the doors."""
    if part_of(module.name) == "net":
        return
    for statement, target in imports(module, frozenset(BANNED_MODULES)):
        for banned, reason in BANNED_MODULES.items():
            if target == banned or target.startswith(banned + "."):
                yield f"{module.at(statement)}: imports {target}: {reason}"
    yielding = {id(node.func) for node in ast.walk(module.tree) if _only_yields(node)}
    for node in ast.walk(module.tree):
        if id(node) in yielding:
            continue
        if isinstance(node, ast.ImportFrom):
            names = [f"{(node.module or '').split('.')[-1]}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [f"{_last_name(node.value)}.{node.attr}"]
        else:
            continue
        for name in names:
            if name in BANNED_NAMES:
                yield f"{module.at(node)}: uses {name}: {BANNED_NAMES[name]}"


def _only_yields(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether `node` is `….sleep(0)`: a turn given to other tasks, no time."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sleep"
        and [getattr(argument, "value", None) for argument in node.args] == [0]
    )


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def impure_protocol(module: Module) -> Iterator[str]:
    """DESIGN §6.2: the rules are pure; they neither wait, look outside, nor log."""
    if part_of(module.name) != "protocol":
        return
    for statement, target in imports(module, frozenset({"urllib.request", "concurrent.futures"})):
        top = target.split(".")[0]
        if top == "comity":
            continue
        if top not in sys.stdlib_module_names and top not in PROTOCOL_LIBRARIES:
            yield f"{module.at(statement)}: protocol imports {target}; its libraries are JSON and ed25519"
        elif top in IMPURE or target in IMPURE:
            yield f"{module.at(statement)}: protocol imports {target}, which is not pure"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await):
            yield f"{module.at(node)}: protocol waits; ask (a Need) and be fed the answer instead"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            yield f"{module.at(node)}: protocol calls {node.func.id}()"


def waiting_store(module: Module) -> Iterator[str]:
    """DESIGN §6.6: SQL functions are synchronous, so nothing can be awaited inside a transaction."""
    if part_of(module.name) != "store" or module.name in WAITING_STORE:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await):
            yield f"{module.at(node)}: async in the store; only database.py and the two drivers wait"


def blocking_reads(module: Module) -> Iterator[str]:
    """Docs/decisions/0014: a server never waits for a database on the event loop's own time."""
    if part_of(module.name) in ("store", "cli") or module.name in BLOCKING_AT_START:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in ("read_now", "write_now"):
            yield f"{module.at(node)}: {node.attr} keeps the whole process waiting; await read or write"


def too_large(module: Module) -> Iterator[str]:
    """DESIGN §6.12: one file is one noun or step, and fits a head."""
    lines = len(module.text.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"{module.path}: {lines} lines; a file has at most {MAX_FILE_LINES}: which two nouns are in it?"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{module.at(node)}: {node.name} has {length} lines; at most {MAX_FUNCTION_LINES}"


def no_docstring(module: Module) -> Iterator[str]:
    """DESIGN §6: a module says what it owns."""
    if module.text.strip() and ast.get_docstring(module.tree) is None:
        yield f"{module.path}: no docstring; say what it owns and what it never does"


def shortcuts_in_tests(module: Module) -> Iterator[str]:
    """DESIGN §7: no mocks of our own code, no sleeping (interop may poll real processes, with a bound)."""
    for statement, target in imports(module, frozenset({"unittest.mock"})):
        if target.split(".")[0] == "mock" or target.startswith("unittest.mock"):
            yield f"{module.at(statement)}: imports {target}; build the real part and give it other ports"
    if module.name.startswith("tests.interop"):
        return
    for node in ast.walk(module.tree):
        if _only_yields(node) or not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = f"{_last_name(node.func.value)}.{node.func.attr}"
        if name in ("time.sleep", "asyncio.sleep"):
            yield f"{module.at(node)}: {name}: wait for the event itself, or give a clock that you turn"


def untidy_text(path: str, text: str) -> Iterator[str]:
    """No trailing white space, and no path that exists on one machine alone."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line != line.rstrip():
            yield f"{path}:{number}: white space at the end of the line"
        if found := _MACHINE_PATH.search(line):
            yield f"{path}:{number}: {found[0]!r} exists on one machine alone"
    if text and not text.endswith("\n"):
        yield f"{path}: no newline at the end"


# Written in pieces, or this file would break its own law.
_MACHINE_PATH = re.compile(
    r"(?<![\w.~$}/-])/(?:"
    + "|".join(["work", "root", "tmp/w", "opt/wheels", r"home/\w+", r"Users/\w+"])
    + r")(?=/)"
)


def unmapped(modules: Sequence[Module], text: str) -> Iterator[str]:
    """Every module stands in docs/map.md, and the map shows no module that is not there.

    An entry is a line of a list that begins with the path in backquotes. Packages' `__init__.py`
    are covered by their folder's heading.
    """
    listed = set(re.findall(r"^[-*] `(comity/[^`]+\.py)`", text, re.MULTILINE))
    present = {module.path for module in modules if not module.path.endswith("__init__.py")}
    for path in sorted(present - listed):
        yield f"docs/map.md: {path} is missing; say in a line what it owns"
    for path in sorted(listed - present):
        yield f"docs/map.md: {path} is listed but does not exist"


def undocumented_keys(keys: Mapping[str, str], text: str) -> Iterator[str]:
    """Every configuration key stands in the table of docs/running.md with its default.

    `keys` maps a full name to its default as TOML; a row begins with both in backquotes.
    """
    rows = dict(re.findall(r"^\| `([A-Za-z_.]+)` \| (?:`([^`]*)`)?", text, re.MULTILINE))
    for name, default in keys.items():
        if name not in rows:
            yield f"docs/running.md: the key {name} is missing from the table"
        elif rows[name] != default:
            yield f"docs/running.md: {name} has the default {default or 'none'}, the table says {rows[name]}"
    for name in sorted(rows.keys() - keys.keys()):
        yield f"docs/running.md: the table has {name}, which is no key"
