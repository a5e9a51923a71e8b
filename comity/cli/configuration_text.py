"""The text of a new configuration file: every key, what it means, and its default.

Made from the same declarations that the file is read by, so that the two cannot drift apart.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from comity.config import KeyDocument, documented_keys, section_meaning

Values = dict[str, Any]

#: Comments are wrapped at this many columns.
WIDTH = 100

HEAD = """
The configuration of comity, a Matrix homeserver. A key that stands in a comment shows its default:
take the "# " away to change it. A key that does not exist is an error when the server starts, and so
is a value that makes no sense. Relative paths stand from this file.
"""


def render(values: Values, examples: Values, more_listeners: list[Values]) -> str:
    """The whole file, from values by full name ("tls.certificate").

    `values` are written; the other keys stand in comments with their default or, where they have
    none, with what `examples` holds for them; `more_listeners` follow the first one, uncommented.
    """
    lines = [*_comment(HEAD.strip()), ""]
    for section, keys in groupby(documented_keys(), key=lambda key: key.section):
        documents = list(keys)
        if section:
            lines += _comment(section_meaning(section))
            lines.append(_heading(section, documents[0]))
        for document in documents:
            lines += _key(document, values, examples)
            if not section:
                lines.append("")
        if section == "listeners":
            for listener in more_listeners:
                lines += ["", "[[listeners]]"]
                lines += [f"{name} = {toml(value)}" for name, value in listener.items()]
        if section:
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _heading(section: str, document: KeyDocument) -> str:
    """A section's head; a comment where there is no section until the operator names one."""
    if document.named:
        return f"# [{section}]"
    return f"[[{section}]]" if document.many else f"[{section}]"


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(item)}" for name, item in value.items()) + " }"
    # TOML's basic strings, numbers and booleans are written as JSON's.
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(" ".join(text.split()), WIDTH - 2):
        yield f"# {line}"


def _key(document: KeyDocument, values: Values, examples: Values) -> Iterator[str]:
    yield from _comment(document.meaning)
    if document.full_name in values:
        yield f"{document.name} = {toml(values[document.full_name])}"
    elif document.default is None:
        yield f"# {document.name} = {toml(examples.get(document.full_name, document.example))}"
    else:
        yield f"# {document.name} = {toml(document.default)}"
