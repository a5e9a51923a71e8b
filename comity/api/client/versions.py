"""What a client asks first: versions of the specification, and `.well-known` (§Server Discovery)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from comity.api.router import Call, Router, json_response
from comity.config import Config
from comity.ports import Response
from comity.protocol.errors import not_found

#: client-server §API Versions. The r0 versions are those whose paths are routed.
VERSIONS = (
    *(f"r0.{minor}" for minor in ("0.1", "1.0", "2.0", "3.0", "4.0", "5.0", "6.0", "6.1")),
    *(f"v1.{minor}" for minor in range(1, 20)),
)
#: By feature, so that clients find what is not in a version of the specification.
UNSTABLE_FEATURES = {
    # COMPAT: how clients (matrix-js-sdk) still ask whether profiles have fields of any name (v1.16).
    "uk.tcpip.msc4133.stable": True,
    # Simplified sliding sync (MSC4186).
    "org.matrix.simplified_msc3575": True,
    # Delayed events (MSC4140).
    "org.matrix.msc4140": True,
    # Dehydrated devices (MSC3814).
    "org.matrix.msc3814": True,
}
HTTPS_PORT = 443


def client_base_url(config: Config) -> str:
    """Where clients reach this server: as configured, or by its name."""
    return config.client_base_url


def delegated_name(config: Config) -> str | None:
    """The value of `m.server` (server-server §Resolving server names), or None for no file.

    Only where the same listener serves clients and servers does the public address of one
    lead to the other; otherwise servers find port 8448 or SRV by themselves.
    """
    serves_both = any({"client", "federation"} <= listener.serves for listener in config.listeners)
    if not serves_both or not config.federation.enabled or config.public.client_base_url is None:
        return None
    url = urlsplit(config.public.client_base_url)
    if url.scheme != "https" or not url.hostname or url.path.strip("/"):
        return None
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{host}:{url.port or HTTPS_PORT}"


def support(config: Config) -> dict[str, Any] | None:
    """Whom people turn to, or None if the configuration names nobody and no page."""
    told: dict[str, Any] = {}
    if config.support.contacts:
        told["contacts"] = [
            {
                name: value
                for name, value in (
                    ("matrix_id", contact.matrix_id),
                    ("email_address", contact.email_address),
                    ("role", contact.role),
                )
                if value is not None
            }
            for contact in config.support.contacts
        ]
    if config.support.support_page is not None:
        told["support_page"] = config.support.support_page
    return told or None


def routes(router: Router, config: Config) -> None:
    """Add the routes of this family."""

    async def versions(call: Call) -> Response:
        return json_response({"versions": VERSIONS, "unstable_features": UNSTABLE_FEATURES})

    async def well_known_client(call: Call) -> Response:
        return json_response({"m.homeserver": {"base_url": client_base_url(config)}})

    async def well_known_server(call: Call) -> Response:
        name = delegated_name(config)
        if name is None:
            raise not_found("This server is found without delegation")
        return json_response({"m.server": name})

    async def well_known_support(call: Call) -> Response:
        told = support(config)
        if told is None:
            raise not_found("This server says nothing of whom to turn to")
        return json_response(told)

    router.add("GET", "/_matrix/client/versions", versions, guard=None)
    router.add("GET", "/.well-known/matrix/client", well_known_client, guard=None)
    router.add("GET", "/.well-known/matrix/server", well_known_server, guard=None)
    router.add("GET", "/.well-known/matrix/support", well_known_support, guard=None)
