"""Takes from the specification's OpenAPI files what the house keeps of them, so that nothing else needs them.

    .venv/bin/python -m pip install pyyaml            (once: only this step reads YAML)
    .venv/bin/python docs/distil_spec.py [FOLDER]     (the specification; ../shared/spec if not named)

Writes tests/data/operations.json (the operations of the client-server and server-server APIs: names,
paths, whether they are to be rate-limited) and tests/data/response_schemas.json.zst (what an answer to
each must look like: JSON Schema 2020-12 with every reference resolved, and nothing in it that does not
constrain).
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import zstandard

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"
APIS = ("client-server", "server-server")
METHODS = frozenset({"get", "put", "post", "delete", "patch", "head"})
#: The answers that have a shape of their own: success, and user-interactive authentication.
STATUSES = ("200", "401")
#: Keywords that constrain and hold no schema.
PLAIN = frozenset(
    {"type", "required", "enum", "const", "pattern", "minimum", "maximum", "minItems", "maxItems"}
    | {"minLength", "maxLength", "minProperties", "maxProperties", "uniqueItems"}
)
#: Keywords that hold a schema, a list of schemas, and schemas by name.
ONE = frozenset({"items", "additionalProperties", "not", "propertyNames"})
LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
NAMED = frozenset({"properties", "patternProperties"})
#: Keywords for readers.
IGNORED = frozenset(
    {"title", "description", "example", "examples", "format", "deprecated", "default", "externalDocs"}
    | {"readOnly", "writeOnly", "$schema", "$id", "$comment"}
)


@cache
def document(path: Path) -> Any:
    """A YAML or JSON file of the specification."""
    return importlib.import_module("yaml").safe_load(path.read_text("utf-8"))


def resolved(value: Any, path: Path) -> tuple[Any, Path]:
    """What stands at the end of a chain of references, and the file that it stands in."""
    while isinstance(value, dict) and "$ref" in value:
        target, _, pointer = value["$ref"].partition("#")
        if target:
            path = (path.parent / target).resolve()
        value = document(path)
        for part in pointer.strip("/").split("/") if pointer.strip("/") else ():
            value = value[part]
    return value, path


def distilled(schema: Any, path: Path) -> Any:
    """A schema without references and without words; True where nothing is left."""
    if isinstance(schema, bool):
        return schema
    parts = []
    if "$ref" in schema:
        parts.append(distilled(*resolved(schema, path)))
        schema = {key: value for key, value in schema.items() if key != "$ref"}
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in PLAIN:
            kept[key] = value
        elif key in ONE:
            kept[key] = distilled(value, path)
        elif key in LIST:
            kept[key] = [distilled(each, path) for each in value]
        elif key in NAMED:
            kept[key] = {name: distilled(each, path) for name, each in value.items()}
        elif key not in IGNORED and not key.startswith("x-"):
            raise SystemExit(f"{path}: the keyword {key} is not known to docs/distil_spec.py")
    return joined([*parts, without_idle(kept)])


def without_idle(schema: dict[str, Any]) -> Any:
    """A schema less the keywords that constrain nothing."""
    for key in NAMED & schema.keys():
        # A property that may be anything constrains only where others are forbidden.
        if schema.get("additionalProperties", True) is True:
            schema[key] = {name: each for name, each in schema[key].items() if each is not True}
        if not schema[key]:
            del schema[key]
    for key in ONE & schema.keys():
        if key != "not" and schema[key] is True:
            del schema[key]
    if not schema.get("required", True):
        del schema["required"]
    if "allOf" in schema:
        return joined([*schema.pop("allOf"), schema or True])
    return schema or True


def joined(parts: list[Any]) -> Any:
    """One schema that demands what all of these do."""
    parts = [part for part in parts if part is not True]
    if not parts:
        return True
    return parts[0] if len(parts) == 1 else {"allOf": parts}


def operations(spec: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each operation, and the schemas of its answers by status."""
    for api in APIS:
        for path in sorted((spec / "data" / "api" / api).glob("*.yaml")):
            described = document(path)
            base = described["servers"][0]["variables"]["basePath"]["default"]
            for place, methods in described["paths"].items():
                for method in sorted(METHODS & methods.keys()):
                    operation = methods[method]
                    told = {
                        "api": api,
                        "file": path.stem,
                        "method": method.upper(),
                        "path": f"{base}{place}".strip(),
                        "id": operation["operationId"],
                        "deprecated": bool(operation.get("deprecated")),
                        "limited": "429" in operation["responses"],
                    }
                    yield told, answers(operation, path)


def answers(operation: dict[str, Any], path: Path) -> dict[str, Any]:
    """status -> the schema of the JSON that an operation answers with."""
    found = {}
    for status in STATUSES:
        response, where = resolved(operation["responses"].get(status, {}), path)
        content = response.get("content", {}).get("application/json", {})
        if (schema := distilled(content.get("schema", {}), where)) is not True:
            found[status] = schema
    return found


def main(spec: Path) -> None:
    """Write both files."""
    DATA.mkdir(exist_ok=True)
    told = sorted(operations(spec), key=lambda pair: (pair[0]["path"], pair[0]["method"], pair[0]["id"]))
    lines = ",\n".join(json.dumps(operation) for operation, _ in told)
    (DATA / "operations.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    schemas = {f"{operation['api']} {operation['id']}": answer for operation, answer in told if answer}
    text = json.dumps(schemas, sort_keys=True, separators=(",", ":")).encode()
    packed = zstandard.ZstdCompressor(level=22).compress(text)
    (DATA / "response_schemas.json.zst").write_bytes(packed)
    print(f"{len(told)} operations, {len(schemas)} with schemas: {len(text):,} bytes, {len(packed):,} packed")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT.parent / "shared" / "spec").resolve())
