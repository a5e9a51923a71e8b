"""The configuration: what an operator may write (`tree`), and how it is read (`reading`).

`comity init` and the house tests take the meaning of each key from `documented_keys`.
"""

from __future__ import annotations

from comity.config.contact import Email, MailServer, Terms
from comity.config.network import Federation, Outbound
from comity.config.oidc import OidcProvider, SingleSignOn
from comity.config.reading import (
    ConfigError,
    KeyDocument,
    documented_keys,
    load,
    loads,
    section_meaning,
)
from comity.config.tree import (
    Caches,
    Config,
    Database,
    Listener,
    Log,
    Passwords,
    Public,
    RateLimits,
    Registration,
    Rooms,
    ServerNotices,
    Sessions,
    Support,
    Tls,
)

__all__ = [
    "Caches",
    "Config",
    "ConfigError",
    "Database",
    "Email",
    "Federation",
    "KeyDocument",
    "Listener",
    "Log",
    "MailServer",
    "OidcProvider",
    "Outbound",
    "Passwords",
    "Public",
    "RateLimits",
    "Registration",
    "Rooms",
    "ServerNotices",
    "Sessions",
    "SingleSignOn",
    "Support",
    "Terms",
    "Tls",
    "documented_keys",
    "load",
    "loads",
    "section_meaning",
]
