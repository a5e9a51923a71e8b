"""Invites of users of ours who take none are refused (client-server §Invite permission).

Owns the refusal. Where invites come in, this is asked; what of them is shown is `comity.sync`'s.
"""

from __future__ import annotations

from collections.abc import Iterable

from comity.protocol.errors import MatrixError
from comity.rooms.read.access import blocks_invites
from comity.store.database import Tx


def check_takes_invites(tx: Tx, user_ids: Iterable[str]) -> None:
    """Raise 403 M_INVITE_BLOCKED if one of these users of ours does not want to be invited."""
    for user_id in user_ids:
        if blocks_invites(tx, user_id):
            raise MatrixError(403, "M_INVITE_BLOCKED", f"{user_id} does not take invites")
