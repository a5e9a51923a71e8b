"""That a user's keys for signing devices may be replaced: approved on a page (§OAuth authentication).

A client that logged in by OAuth 2.0 has no password to give. Its user opens a page of this server and
approves; for a while, one upload of such keys is let through. In memory alone, as all of
user-interactive authentication: after a restart clients begin again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.ports import Clock
from comity.protocol.errors import forbidden
from comity.store.cache import Bounded
from comity.users.interactive import Interactive, Proven

STAGE = "m.oauth"
#: How long an approval waits for the client to go on.
APPROVED_SECONDS = 10 * 60.0
#: Users who have approved and whose clients have not gone on yet.
MAX_APPROVALS = 10_000


class IdentityReset:
    """The stage `m.oauth`."""

    def __init__(self, interactive: Interactive, clock: Clock, url: str) -> None:
        """`url` is the page on which users approve."""
        self._interactive = interactive
        self._clock = clock
        self._url = url
        #: user id -> until when, on the monotonic clock.
        self._approved: Bounded[str, float] = Bounded(MAX_APPROVALS)

    def approve(self, user_id: str) -> None:
        """The user approves, on the page."""
        self._approved.put(user_id, self._clock.monotonic() + APPROVED_SECONDS)

    async def require(self, operation: str, user_id: str, body: Mapping[str, Any]) -> Proven:
        """Return once `user_id` has approved, for `operation` with that `body`.

        Raises as `Interactive.require`.
        """

        async def check(stage: str, given: Mapping[str, Any]) -> bool:
            if not self._is_approved(user_id):
                raise forbidden("The user has not approved yet, on the page of this server")
            return True

        auth = body.get("auth")
        names_no_stage = isinstance(auth, dict) and bool(auth.get("session")) and "type" not in auth
        if isinstance(auth, dict) and names_no_stage and self._is_approved(user_id):
            # A client that is done names the session alone.
            body = {**body, "auth": {**auth, "type": STAGE}}
        return await self._interactive.require(
            f"{operation} {user_id}", [[STAGE]], body, check, params={STAGE: {"url": self._url}}
        )

    def withdraw(self, user_id: str) -> None:
        """The keys have been replaced: the next time is approved anew."""
        self._approved.drop(user_id)

    def _is_approved(self, user_id: str) -> bool:
        until = self._approved.get(user_id)
        return until is not None and until > self._clock.monotonic()
