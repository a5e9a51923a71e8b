"""The rooms in which the server speaks to a user: the invite to it cannot be turned down.

client-server §Server Notices, Client behaviour. Who has joined such a room may leave it.
"""

from __future__ import annotations

from comity.protocol.build import Draft
from comity.protocol.errors import MatrixError
from comity.rooms.merge import Merger
from comity.rooms.room import Room
from comity.store import server_notices
from comity.store.database import Tx


class NoticeRooms:
    """Holds our users to that."""

    def __init__(self, merger: Merger) -> None:
        self._merger = merger

    def check_draft(self, tx: Tx, room: Room, draft: Draft) -> None:
        """Call it under the room's lock, of every event before it is built.

        Raises 403 M_CANNOT_LEAVE_SERVER_NOTICE_ROOM for the rejection of such an invite.
        """
        user_id = draft.sender
        if draft.type != "m.room.member" or draft.state_key != user_id:
            return
        if draft.content.get("membership") != "leave":
            return
        standing = self._merger.lookup(tx, room, room.state)(("m.room.member", user_id))
        if standing is None or standing.membership != "invite":
            return
        if server_notices.room_of(tx, user_id) == room.room_id:
            raise MatrixError(
                403,
                "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM",
                "The server speaks to you in this room",
            )
