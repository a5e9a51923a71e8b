"""One TOML file becomes one frozen tree, or a list of everything that is wrong with it.

It reads that one file and nothing else: whether a certificate exists, or a port is free, is
found out by the part that opens it.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from comity.config.tree import Config
from comity.config.values import REQUIRED, Unfit, is_section_name

#: A configuration is written by hand; a file beyond this is not one.
MAX_FILE_BYTES = 1 << 20
#: A key this unlike every known key is not a slip of the pen: no guess is offered for it.
LEAST_LIKENESS = 0.5
#: A key of the same section is likelier meant than an equally alike one of another.
AT_HOME = 0.05
#: Sections of one kind that the operator names: each is something to keep in memory.
MAX_NAMED_SECTIONS = 50


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds one sentence for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class KeyDocument:
    """What may be said of one key: `section` is "" at the top, and ends in ".NAME" where the operator names
    it. `default` is as written in the file, None where there is none; `many`, `optional` and `named` are its
    section's."""

    section: str
    name: str
    default: Any
    required: bool
    meaning: str
    example: Any
    many: bool = False
    optional: bool = False
    named: bool = False

    @property
    def full_name(self) -> str:
        """`section.name`, or the name alone at the top."""
        return f"{self.section}.{self.name}" if self.section else self.name


def documented_keys() -> Iterator[KeyDocument]:
    """Every key that may be written, in the order of the tree."""
    for entry in fields(Config):
        if "section" not in entry.metadata:
            yield _document("", entry)
            continue
        name = f"{entry.name}.NAME" if entry.metadata["named"] else entry.name
        for inner in fields(entry.metadata["section"]):
            yield _document(name, inner, entry.metadata)


def section_meaning(section: str) -> str:
    """The sentence that says what a section is for."""
    entry = next(entry for entry in fields(Config) if entry.name == section.partition(".")[0])
    return str(entry.metadata["section"].__doc__)


def load(path: Path) -> Config:
    """Read a configuration file. Raises ConfigError with everything that is wrong with it."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError([f"{path} is larger than {MAX_FILE_BYTES} bytes: it is not a configuration"])
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path} is not a text file in UTF-8"]) from None
    return loads(text, path.parent)


def loads(text: str, directory: Path) -> Config:
    """Read a configuration from `text`; relative paths stand from `directory`.

    Raises ConfigError with everything that is wrong with it.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"This is not TOML: {error}"]) from None
    reading = _Reading(directory.absolute())
    config: Config = reading.table(Config, table, "")
    if not reading.problems:
        reading.problems += _contradictions(config)
    if reading.problems:
        raise ConfigError(reading.problems)
    return config


class _Reading:
    """One pass over one file, collecting what is wrong."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.problems: list[str] = []

    def table(self, kind: type[Any], table: Mapping[str, Any], place: str) -> Any:
        """The `kind` that `table` describes; faulty values are None and noted in `problems`."""
        known = fields(kind)
        names = {_written(entry) for entry in known}
        self.problems += [_unknown(place, name) for name in table if name not in names]
        values = {}
        for entry in known:
            name = _written(entry)
            full_name = f"{place}.{name}" if place else name
            if "section" in entry.metadata:
                values[entry.name] = self._section(entry.metadata, table.get(name), full_name)
            else:
                values[entry.name] = self._value(entry.metadata, table, name, full_name)
        return kind(**values)

    def _section(self, metadata: Mapping[str, Any], value: Any, name: str) -> Any:
        kind = metadata["section"]
        if metadata["named"]:
            return self._named(kind, value, name)
        if metadata["many"]:
            if not isinstance(value, list | None) or not all(isinstance(item, dict) for item in value or ()):
                self.problems.append(f"{name}: found {_found(value)}, expected tables headed [[{name}]]")
                return ()
            tables = value or [{}]
            places = [
                f"{name}[{number}]" if len(tables) > 1 else name for number in range(1, len(tables) + 1)
            ]
            return tuple(self.table(kind, item, place) for item, place in zip(tables, places, strict=True))
        if value is None:
            return None if metadata["optional"] else self.table(kind, {}, name)
        if not isinstance(value, dict):
            self.problems.append(f"{name}: found {_found(value)}, expected a table, headed [{name}]")
            return None
        return self.table(kind, value, name)

    def _named(self, kind: type[Any], value: Any, name: str) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
            self.problems.append(f"{name}: found {_found(value)}, expected tables, headed [{name}.NAME]")
            return {}
        if len(value) > MAX_NAMED_SECTIONS:
            self.problems.append(f"{name}: found {len(value)} tables, expected {MAX_NAMED_SECTIONS} at most")
        self.problems += [
            f'{name}: "{chosen}" is no name for a section; take 1 to 64 of A-Z, a-z, 0-9, _ and -'
            for chosen in value
            if not is_section_name(chosen)
        ]
        return {chosen: self.table(kind, table, f"{name}.{chosen}") for chosen, table in value.items()}

    def _value(self, metadata: Mapping[str, Any], table: Mapping[str, Any], name: str, full_name: str) -> Any:
        value = table.get(name, metadata["default"])
        if value is REQUIRED:
            self.problems.append(f'{full_name}: missing; write for example {name} = "{metadata["example"]}"')
            return None
        if value is None:
            return None
        try:
            return metadata["read"](value, self.directory)
        except Unfit as unfit:
            found = _kind_of(value) if metadata["secret"] else _found(unfit.value)
            self.problems.append(f"{full_name}: found {found}, expected {unfit.expected}")
            return None


def _contradictions(config: Config) -> list[str]:
    """What is wrong with values that are each right by themselves."""
    binds = [listener.bind for listener in config.listeners]
    problems = [
        f'listeners.bind: "{bind}" is there more than once; each listener needs its own'
        for bind in sorted({bind for bind in binds if binds.count(bind) > 1 and not bind.endswith(":0")})
    ]
    if config.tls is None and any(listener.tls for listener in config.listeners):
        problems.append("listeners.tls: true needs a [tls] section with certificate and private_key")
    if any(listener.client_certificates and not listener.tls for listener in config.listeners):
        problems.append("listeners.client_certificates: true needs tls = true beside it")
    if (config.federation.client_certificate is None) != (config.federation.client_private_key is None):
        problems.append("federation.client_certificate and federation.client_private_key need each other")
    if config.email.smtp_url is not None and config.email.sender is None:
        problems.append('email.smtp_url: needs from beside it, such as from = "noreply@example.org"')
    if config.registration.requires_email and config.email.smtp_url is None:
        problems.append("registration.requires_email: true needs [email] with smtp_url and from")
    return problems


def _unknown(place: str, name: str) -> str:
    """The sentence for a key that does not exist: it names the nearest one that does."""
    section = place.partition("[")[0]
    if "." in section:
        section = section.partition(".")[0] + ".NAME"
    full_name = f"{place}.{name}" if place else name
    known = [key.full_name for key in documented_keys()]
    if not place:
        known += [entry.name for entry in fields(Config) if "section" in entry.metadata]

    def likeness(candidate: str) -> float:
        home, _, leaf = candidate.rpartition(".")
        return difflib.SequenceMatcher(None, name, leaf).ratio() + (AT_HOME if home == section else 0)

    nearest = max(known, key=likeness)
    if likeness(nearest) >= LEAST_LIKENESS:
        return f"{full_name}: there is no such key; the nearest is {nearest}"
    here = [key for key in known if key.rpartition(".")[0] == section]
    return f"{full_name}: there is no such key; the keys here are {', '.join(here)}"


def _document(section: str, entry: Any, of_section: Mapping[str, Any] | None = None) -> KeyDocument:
    data, home = entry.metadata, of_section or {}
    required = data["default"] is REQUIRED
    default = None if required else data["default"]
    return KeyDocument(
        section, _written(entry), default, required, data["meaning"], data["example"],
        many=home.get("many", False), optional=home.get("optional", False), named=home.get("named", False),
    )  # fmt: skip


def _written(entry: Any) -> str:
    """What a field of the tree is called in the file."""
    return str(entry.metadata.get("written") or entry.name)


def _kind_of(value: Any) -> str:
    names = {str: "text", bool: "a boolean", int: "a whole number", float: "a fraction", list: "a list"}
    return names.get(type(value), "a table" if isinstance(value, dict) else "a date or time")


def _found(value: Any) -> str:
    """What was found, in the operator's notation where it is short."""
    match value:
        case bool():
            return str(value).lower()
        case str() if len(value) <= 80:
            return f'the text "{value}"'
        case int():
            return f"the whole number {value}"
        case float():
            return f"the fraction {value}"
        case _:
            return _kind_of(value)
