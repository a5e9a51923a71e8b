"""The keys of what has to do with others on the network: servers, and whom else this server asks.

As `comity.config.tree`, of which this is a part: declarations alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from comity.config import values
from comity.config.values import key


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Talking to other servers."""

    enabled: bool = key(values.flag, True, "Whether to talk to other servers at all.")
    trusted_ca: tuple[Path, ...] = key(
        values.list_of(values.path), [], "Certificate authorities (PEM files) to trust beside the system's."
    )
    verify_certificates: bool = key(
        values.flag, True, "Whether other servers must prove who they are. Turn it off in tests only."
    )
    allow_ranges: tuple[str, ...] = key(
        values.list_of(values.network),
        [],
        "Networks that other servers may live in although they are private, loopback or link-local; those "
        "are refused otherwise, so that no stranger can make this server ask your inner network.",
    )
    trusted_key_servers: tuple[str, ...] = key(
        values.list_of(values.server_name),
        ["matrix.org"],
        "Servers to ask for the keys of servers that do not answer.",
    )
    client_certificate: Path | None = key(
        values.path,
        None,
        "A certificate with its chain (PEM) to show to other servers that ask for one.",
        example="client.pem",
    )
    client_private_key: Path | None = key(
        values.path, None, "The private key of client_certificate, PEM.", example="client_key.pem"
    )
    tls_certificate: Path | None = key(
        values.path,
        None,
        "The certificate (PEM) with which other servers reach this one, where a reverse proxy speaks TLS. "
        "It is published for servers that look for it at /_matrix/key/v1.",
        example="fullchain.pem",
    )
    publish_rooms: bool = key(
        values.flag, False, "Whether other servers' users are shown this server's published rooms."
    )
    allow_servers: tuple[str, ...] = key(
        values.list_of(values.text),
        [],
        "The only servers to talk to, if any are named; * and ? stand for any characters. A name without a "
        "port is meant for every port.",
    )
    deny_servers: tuple[str, ...] = key(
        values.list_of(values.text),
        [],
        "Servers not to talk to, even where allow_servers names them: what they ask is refused, and they "
        "are asked nothing.",
    )
    requests_per_second: int = key(
        values.whole_number(1, 1_000_000),
        100,
        "How much one server may ask for in the long run, in requests; dear ones (a room's whole state) "
        "count for up to 20, each event sent here for a twentieth. rate_limits.enabled turns it off.",
    )
    request_burst: int = key(values.whole_number(1, 1_000_000), 2000, "And how much at once, after a pause.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """Asking everything that is not a homeserver: identity servers, push gateways, application services,
    pages to preview, sign-in providers."""

    trusted_ca: tuple[Path, ...] = key(
        values.list_of(values.path), [], "Certificate authorities (PEM files) to trust beside the system's."
    )
    allow_ranges: tuple[str, ...] = key(
        values.list_of(values.network),
        [],
        "Networks that those may live in although they are private, loopback or link-local; those are "
        "refused otherwise, so that no stranger can make this server ask your inner network.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy server for rooms: servers show it each event of such a room before they send it."""

    enabled: bool = key(
        values.flag,
        False,
        "Whether this server is a policy server. A room uses it once a user of this server is in it and its "
        "m.room.policy names this server, with the key from /.well-known/matrix/policy_server.",
    )
    deny_servers: tuple[str, ...] = key(
        values.list_of(values.text),
        [],
        "Servers whose users may not write; * and ? stand for any characters.",
    )
    deny_users: tuple[str, ...] = key(
        values.list_of(values.text), [], "Users who may not write; * and ? stand for any characters."
    )
    deny_words: tuple[str, ...] = key(
        values.list_of(values.text), [], "Texts that no event may hold, in letters small or capital."
    )
