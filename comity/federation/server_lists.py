"""Whom this server talks to at all: the operator's lists of servers.

Held against in both directions: `client` asks nobody who is not welcome, and the guard of the
federation routes (`comity.api.server_auth`) answers nobody who is not. What such a server's users
do in rooms that are shared with others comes through those others, and is the rooms' affair.
"""

from __future__ import annotations

from collections.abc import Sequence

from comity.federation.errors import FederationError
from comity.protocol.errors import MatrixError
from comity.protocol.identifiers import MAX_IDENTIFIER_BYTES, parse_server_name
from comity.protocol.matching import Glob
from comity.store.cache import Bounded

#: Servers whose answer is remembered, about 150 bytes each.
MAX_REMEMBERED = 20_000


class ServerLists:
    """Which servers are welcome: those allowed (nobody named: everybody) that are not denied."""

    def __init__(self, allow: Sequence[str] = (), deny: Sequence[str] = ()) -> None:
        """Both are globs of server names, without regard to case; `*` and `?` are special.

        One without a port is meant for the host on every port.
        """
        self._allow = [Glob(pattern.lower()) for pattern in allow]
        self._deny = [Glob(pattern.lower()) for pattern in deny]
        self._known: Bounded[str, bool] = Bounded(MAX_REMEMBERED)

    def welcomes(self, server: str) -> bool:
        """Whether we have to do with that server."""
        if not self._allow and not self._deny:
            return True
        known = self._known.get(server)
        if known is None:
            known = self._decide(server)
            if len(server) <= MAX_IDENTIFIER_BYTES:
                self._known.put(server, known)
        return known

    def _decide(self, server: str) -> bool:
        try:
            host, _ = parse_server_name(server)
        except ValueError:
            return False
        names = {server.lower(), host.lower()}

        def among(globs: list[Glob]) -> bool:
            return any(glob.matches(name) for glob in globs for name in names)

        return not among(self._deny) and (not self._allow or among(self._allow))

    def check_asked(self, server: str) -> None:
        """Raises FederationError for a server that is not to be asked anything."""
        if not self.welcomes(server):
            raise FederationError(
                server, "the operator of this server does not let it talk to that one", kind="unwelcome"
            )

    def check_asking(self, server: str) -> None:
        """Raises 403 M_FORBIDDEN for a server that is not to be answered anything."""
        if not self.welcomes(server):
            raise MatrixError(
                403,
                "M_FORBIDDEN",
                "The operator of this server does not let it talk to your server",
                detail=server,
            )
