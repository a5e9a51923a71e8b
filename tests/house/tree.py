"""The files of the house, and the modules of comity with what each imports.

Reads source text and syntax trees; it never imports what it reads.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Folders that hold nothing of the house: environments, caches, what programs leave behind.
NOT_OURS = frozenset(
    {".git", ".venv", ".cache", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
    | {"__pycache__", "node_modules", "build", "dist", "data"}
)
#: What is read as text when every file is looked at.
TEXT_SUFFIXES = frozenset(
    {"", ".cfg", ".css", ".html", ".js", ".json", ".lock", ".md", ".mjs", ".py", ".sh", ".sql"}
    | {".svg", ".toml", ".txt", ".yaml", ".yml"}
)


@dataclass(frozen=True)
class Module:
    """One Python source file: its dotted name, its path in the tree, its text."""

    name: str
    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    def at(self, node: ast.AST) -> str:
        """Where `node` stands, as an editor opens it."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


def module_name(path: Path) -> str:
    """`comity/store/events.py` -> `comity.store.events`; a package is named after its folder."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(folder: str) -> list[Module]:
    """Every Python file under `folder` of the tree."""
    return [
        Module(
            module_name(path.relative_to(ROOT)), path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
        )
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not NOT_OURS & set(path.relative_to(ROOT).parts)
    ]


def text_files() -> Iterator[tuple[str, str]]:
    """Path and text of every text file of the house."""
    for path in sorted(ROOT.rglob("*")):
        relative = path.relative_to(ROOT)
        if NOT_OURS & set(relative.parts) or not path.is_file() or path.suffix not in TEXT_SUFFIXES:
            continue
        try:
            yield relative.as_posix(), path.read_text("utf-8")
        except UnicodeDecodeError:
            continue


def imports(module: Module, known: frozenset[str]) -> Iterator[tuple[ast.stmt, str]]:
    """Each import anywhere in the module: the statement, and the module it reaches.

    `from comity.store import events` reaches `comity.store.events` if that is a module in `known`,
    else `comity.store`.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative: resolve it against this module's package
                is_package = module.path.endswith("/__init__.py")
                package = module.name.split(".")
                package = package[: len(package) - node.level + is_package]
                base = ".".join([*package, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield node, whole if whole in known else base
