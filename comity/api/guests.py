"""What guests may ask (client-server §Guest Access, Client behaviour): the one list of it.

Every other endpoint that needs a user refuses them. What a guest may then do to a room is decided
in `comity.rooms.guest_access`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from comity.api.router import Call

#: What more must hold of a request, where not all that an endpoint does is for guests.
Condition = Callable[[Call], bool]


def _always(_: Call) -> bool:
    return True


def _is_display_name(call: Call) -> bool:
    """Guests may change no other field of their profile."""
    return call.parameters["keyName"] == "displayname"


def _is_preview(call: Call) -> bool:
    """`GET /events` as used for room previews."""
    return call.query("room_id") is not None


_ROOM = "/rooms/{roomId}"
#: (method, the path behind the version) of what guests may ask.
GUEST_ENDPOINTS: Mapping[tuple[str, str], Condition] = {
    # Retrieving events and associated media.
    ("GET", _ROOM + "/state"): _always,
    ("GET", _ROOM + "/context/{eventId}"): _always,
    ("GET", _ROOM + "/event/{eventId}"): _always,
    ("GET", _ROOM + "/state/{eventType}"): _always,
    ("GET", _ROOM + "/state/{eventType}/{stateKey}"): _always,
    ("GET", _ROOM + "/messages"): _always,
    ("GET", _ROOM + "/members"): _always,
    ("GET", _ROOM + "/initialSync"): _always,
    ("GET", "/sync"): _always,
    ("GET", "/events"): _is_preview,
    ("GET", "/media/download/{serverName}/{mediaId}"): _always,
    ("GET", "/media/download/{serverName}/{mediaId}/{fileName}"): _always,
    ("GET", "/media/thumbnail/{serverName}/{mediaId}"): _always,
    # Sending events.
    ("POST", _ROOM + "/join"): _always,
    ("POST", _ROOM + "/leave"): _always,
    ("PUT", _ROOM + "/send/{eventType}/{txnId}"): _always,
    ("PUT", _ROOM + "/state/{eventType}"): _always,
    ("PUT", _ROOM + "/state/{eventType}/{stateKey}"): _always,
    ("PUT", "/sendToDevice/{eventType}/{txnId}"): _always,
    # MSC4140 §Guest accounts.
    ("PUT", f"/org.matrix.msc4140{_ROOM}/delayed_event/{{eventType}}/{{txnId}}"): _always,
    ("GET", "/org.matrix.msc4140/delayed_events"): _always,
    ("GET", "/org.matrix.msc4140/delayed_events/{delayId}"): _always,
    # Their own account.
    ("PUT", "/profile/{userId}/{keyName}"): _is_display_name,
    ("DELETE", "/profile/{userId}/{keyName}"): _is_display_name,
    ("GET", "/devices"): _always,
    ("GET", "/devices/{deviceId}"): _always,
    ("PUT", "/devices/{deviceId}"): _always,
    ("GET", "/account/whoami"): _always,
    # End-to-end encryption.
    ("POST", "/keys/upload"): _always,
    ("POST", "/keys/query"): _always,
    ("POST", "/keys/claim"): _always,
}
#: What stands before that path: nothing, `_matrix`, `client`, the version.
_PREFIX_SEGMENTS = 4


def may_ask_as_guest(call: Call) -> bool:
    """Whether a guest may make that request at all."""
    path = "/" + "/".join(call.template.split("/")[_PREFIX_SEGMENTS:])
    method = "GET" if call.request.method == "HEAD" else call.request.method
    condition = GUEST_ENDPOINTS.get((method, path))
    return condition is not None and condition(call)
