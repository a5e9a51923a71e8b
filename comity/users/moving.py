"""What a user had set for a room goes on in the room that replaces it (client-server §Room Upgrades).

Owns which settings those are: tags, the place among direct chats, push rules for the one room.
Which room replaces which is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.users.account_data import TAGS, AccountData
from comity.users.push import PushRules

DIRECT = "m.direct"


class Moving:
    """Carries users' settings from room to room."""

    def __init__(self, account_data: AccountData, push_rules: PushRules) -> None:
        self._account_data = account_data
        self._push_rules = push_rules

    async def carry_over(self, user_id: str, old: str, new: str) -> None:
        """Set for `new` what is set for `old`. What the user has set for `new` already stands."""
        tags = await self._account_data.tags(user_id, old)
        if tags:

            def tag(content: dict[str, Any] | None) -> Mapping[str, Any] | None:
                return {"tags": tags} if not (content or {}).get("tags") else None

            await self._account_data.change(user_id, new, TAGS, tag)
        await self._account_data.change(user_id, "", DIRECT, lambda content: _direct(content, old, new))
        await self._push_rules.carry_over(user_id, old, new)


def _direct(content: dict[str, Any] | None, old: str, new: str) -> Mapping[str, Any] | None:
    """`m.direct` with the new room beside the old one; None if nothing changes (§m.direct)."""
    changed = {
        other: [*rooms, new]
        for other, rooms in (content or {}).items()
        if isinstance(rooms, list) and old in rooms and new not in rooms
    }
    return {**(content or {}), **changed} if changed else None
