"""Whether the keys of third-party invites are still valid, asked of the identity servers they came from.

client-server §Third-party invites. Owns the question and its bounds; never decides what follows.
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from comity.federation.answers import QUICK_SECONDS, json_object
from comity.federation.errors import FederationError
from comity.ports import Outbound, TransportError
from comity.protocol.auth.third_party import InviteKey

#: An answer is an object of one boolean.
MAX_BYTES = 16 * 1024
#: Redirects followed: from an old name to a new one, and one of its own.
MAX_REDIRECTS = 2
#: Characters of a URL that is asked: whoever invites writes it into the room.
MAX_URL = 2_000
#: Characters of a server's name in what is logged.
MAX_SERVER = 255


class IdentityKeys:
    """Asks identity servers."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound

    async def is_valid(self, key: InviteKey) -> bool:
        """Whether the key has not been revoked (identity-service §Key management).

        Raises FederationError when there is no saying.
        """
        if key.validity_url is None:
            return True
        try:
            parts = urlsplit(key.validity_url[: MAX_URL + 1])
        except ValueError:
            raise FederationError("an identity server", "its key_validity_url is not a URL") from None
        server = parts.netloc[:MAX_SERVER]
        if len(key.validity_url) > MAX_URL:
            raise FederationError(server, f"a key_validity_url of more than {MAX_URL} characters")
        query = f"public_key={quote(key.public_key, safe='')}"
        query = f"{parts.query}&{query}" if parts.query else query
        url = parts._replace(query=query, fragment="").geturl()
        try:
            answer = await self._outbound.request_url(
                "GET", url, timeout=QUICK_SECONDS, max_bytes=MAX_BYTES, max_redirects=MAX_REDIRECTS
            )
        except TransportError as error:
            raise FederationError(server, str(error), reached=error.reached, temporary=True) from error
        if answer.status != 200:
            raise FederationError(server, "the key's validity is not told", status=answer.status)
        return json_object(server, answer.body).get("valid") is True
