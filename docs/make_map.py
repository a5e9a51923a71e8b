"""Brings docs/map.md up to date: under each heading, one line for each module, from its docstring.

    .venv/bin/python docs/make_map.py        (or: make map)

Headings and prose are written by hand and left alone; only the lists are made here.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAP = ROOT / "docs" / "map.md"
WIDTH = 110

HEADING = re.compile(r"^## (?:`comity/(?P<folder>\w+)`|The top)$")


def entry(path: Path) -> str:
    """The list entry of one module: its path, and the first paragraph of its docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    first = " ".join(docstring.partition("\n\n")[0].split())
    text = f"- `{path.relative_to(ROOT).as_posix()}` {first}"
    return textwrap.fill(
        text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    ).rstrip()


def modules(folder: str | None) -> list[Path]:
    """The modules below a folder of comity, a package's own before its subpackages'; None is the top."""
    top = ROOT / "comity"
    found = top.glob("*.py") if folder is None else (top / folder).rglob("*.py")
    return sorted(
        (path for path in found if path.name != "__init__.py"), key=lambda path: (path.parent, path.name)
    )


def renewed(text: str) -> str:
    """The page with its lists made anew. Exits if a package has no heading."""
    sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    headed = set()
    for number, section in enumerate(sections):
        heading, _, body = section.partition("\n")
        if match := HEADING.match(heading):
            headed.add(match["folder"])
            prose = body.partition("- `comity/")[0].strip()
            entries = "\n".join(entry(path) for path in modules(match["folder"]))
            sections[number] = "\n\n".join(part for part in (heading, prose, entries) if part) + "\n\n"
    packages = {path.parent.name for path in (ROOT / "comity").glob("*/__init__.py")}
    if unheaded := packages - headed:
        sys.exit(f"docs/map.md has no heading for {', '.join(sorted(unheaded))}: write one, and a sentence")
    return "".join(sections).rstrip() + "\n"


if __name__ == "__main__":
    MAP.write_text(renewed(MAP.read_text("utf-8")), encoding="utf-8")
