"""Visibility: what one user, or one server, may see of a room's history.

client-server §Room History Visibility, and §Account deactivation on what is erased. Pure functions
of what the room's state was at the event; who collects that, and what becomes of an event that may
not be seen (a client does not get it; another server gets it redacted, or not at all), is decided
elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comity.protocol.event import Event

WORLD_READABLE = "world_readable"
SHARED = "shared"
INVITED = "invited"
JOINED = "joined"
_VALUES = frozenset((WORLD_READABLE, SHARED, INVITED, JOINED))


def history_visibility(content: Mapping[str, Any] | None) -> str:
    """The visibility that the content of an `m.room.history_visibility` sets.

    No event (None), no value and a value that is not understood all mean `shared`.
    """
    value = content.get("history_visibility") if content is not None else None
    return value if isinstance(value, str) and value in _VALUES else SHARED


@dataclass(frozen=True, slots=True)
class History:
    """The room's history visibility at an event.

    `after` differs from `before` only if the event itself changes it: then either may allow.
    """

    before: str
    after: str


def history_at(event: Event, content_before: Mapping[str, Any] | None) -> History:
    """The History at `event`, from the `m.room.history_visibility` in the state before it."""
    before = history_visibility(content_before)
    if event.type == "m.room.history_visibility" and event.state_key == "":
        return History(before, history_visibility(event.content))
    return History(before, before)


@dataclass(frozen=True, slots=True)
class UserView:
    """How a user stands to an event.

    `membership`: theirs in the state before the event, None if they had none.
    `is_own_membership`: the event is the `m.room.member` of this very user.
    `joined_later`: they joined at any point after the event (and may have left since).
    """

    membership: str | None
    joined_later: bool
    is_own_membership: bool = False


def user_may_see(history: History, view: UserView) -> bool:
    """Whether the user may see the event (client-server §Room History Visibility, Server behaviour).

    Only what the event's place in history allows: that a user who has left sees nothing that
    came later follows from `membership` and `joined_later`; whether somebody who was never in
    the room may ask at all is the endpoint's question.
    """
    if view.is_own_membership:
        # More than the letter, which asks for the visibility before or after: whoever is invited,
        # turned away, kicked or banned is told so by /sync, whatever the room's visibility.
        return True
    return _allows(
        history,
        joined=view.membership == "join",
        invited=view.membership == "invite",
        joined_later=view.joined_later,
    )


@dataclass(frozen=True, slots=True)
class ServerView:
    """How a server stands to an event: what holds for at least one of its users.

    `joined`, `invited`: in the state before the event. `joined_later`: at any point after it.
    `is_own_membership`: the event is the `m.room.member` of a user of that server.
    """

    joined: bool
    invited: bool
    joined_later: bool
    is_own_membership: bool = False


def server_may_see(history: History, view: ServerView) -> bool:
    """Whether the server may see the event: whether at least one of its users may.

    The conditions may be met by different users: the server itself knows what each was sent.
    """
    if view.is_own_membership:
        return True
    return _allows(history, joined=view.joined, invited=view.invited, joined_later=view.joined_later)


def is_erased_for(event: Event, *, was_in: bool, came_before: bool) -> bool:
    """Whether an event of a sender whose content was erased is given redacted (§Account deactivation).

    `was_in`: whoever asks (a user, a server) was joined in the state before the event. `came_before`:
    they were joined to the room at any time before the erasure. They could see it then, and still can.

    The room's own state stays as it is: it is no content of its sender, and without it a room would not
    be encrypted any more for those who come, or not be followed to where it was moved.
    """
    if was_in or came_before:
        return False
    return event.state_key is None or event.sender in event.state_key


def _allows(history: History, *, joined: bool, invited: bool, joined_later: bool) -> bool:
    """Rules 1 to 5, for the visibility before the event or after it."""
    return (
        joined
        or WORLD_READABLE in (history.before, history.after)
        or (joined_later and SHARED in (history.before, history.after))
        or (invited and INVITED in (history.before, history.after))
    )
