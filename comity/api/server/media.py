"""Media for other servers (server-server §Content Repository). There is no store of media yet."""

from __future__ import annotations

import re

from comity.api.router import Call, Guard, Router
from comity.ports import Response
from comity.protocol.errors import invalid_param, missing_param, not_found

_MEDIA = "/_matrix/federation/v1/media"
_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")
#: Pixels of either side of a thumbnail that may be asked for.
MAX_SIDE = 10_000


class MediaApi:
    """Checks what is asked for, and has none of it."""

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the routes."""
        router.add("GET", f"{_MEDIA}/download/{{mediaId}}", self.download, guard=guard, serves="federation")
        router.add("GET", f"{_MEDIA}/thumbnail/{{mediaId}}", self.thumbnail, guard=guard, serves="federation")

    async def download(self, call: Call) -> Response:
        """One file."""
        _check_id(call)
        raise not_found("There is no such media on this server")

    async def thumbnail(self, call: Call) -> Response:
        """A small picture of one file."""
        _check_id(call)
        for side in ("width", "height"):
            if call.query(side) is None:
                raise missing_param(f"The query parameter {side} is missing")
            if not 1 <= call.query_int(side, 0) <= MAX_SIDE:
                raise invalid_param(f"{side} is not a number of pixels")
        if call.query("method", "scale") not in ("crop", "scale"):
            raise invalid_param("method is neither crop nor scale")
        raise not_found("There is no such media on this server")


def _check_id(call: Call) -> None:
    if not _ID.fullmatch(call.parameters["mediaId"]):
        raise invalid_param("The media id is not one")
