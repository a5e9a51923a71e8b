"""All targets by name, each found in its module only when it is asked for.

A worker imports the parsers of its own target alone: to make all of comity tell where it has been
takes seconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from fuzz.target import Target

#: Name -> module, in the order in which they are run.
NAMES: Mapping[str, str] = {
    "events": "events",
    "join_answers": "graphs",
    "canonical_json": "values",
    "identifiers": "texts",
    "authorization": "texts",
    "base64": "texts",
    "tokens": "texts",
    "globs": "texts",
    "address": "texts",
    "emails": "addresses",
    "identity_answers": "addresses",
    "discovery": "servers",
    "key_document": "servers",
    "server_acl": "servers",
    "filters": "clients",
    "push_rules": "clients",
    "oauth_clients": "oauth",
    "forms": "oauth",
    "id_tokens": "upstream",
    "redirects": "upstream",
    "answers": "answers",
    "router": "requests",
    "requests": "requests",
    "transactions": "requests",
    "wire": "wire",
    "http_answers": "http_answers",
}


def load(name: str) -> Target:
    """The target of that name."""
    module = importlib.import_module(f"fuzz.targets.{NAMES[name]}")
    targets: tuple[Target, ...] = module.TARGETS
    return next(target for target in targets if target.name == name)
