"""Where the client-server API's endpoints are found: the versions in their paths."""

from __future__ import annotations

from comity.api.router import Guard, Handler, Router

#: Endpoints from before v1.1 live at both; COMPAT: older clients know the first alone.
CLASSIC_VERSIONS = ("r0", "v3")


def add_classic(router: Router, method: str, path: str, handler: Handler, guard: Guard | None) -> None:
    """Add a route of the client-server API under each version that it was ever found at.

    `path` is what follows the version, like `/account/whoami`.
    """
    for version in CLASSIC_VERSIONS:
        router.add(method, f"/_matrix/client/{version}{path}", handler, guard=guard)
