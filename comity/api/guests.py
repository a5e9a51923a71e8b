"""What guests may ask (client-server §Guest Access, Client behaviour): the one list of it.

Every other endpoint that needs a user refuses them. What a guest may then do to a room is decided
in `comity.rooms.guest_access`.
"""

from __future__ import annotations

from collections.abc import Mapping

from comity.api.router import Call, Condition, always, path_behind_version


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
    ("GET", _ROOM + "/state"): always,
    ("GET", _ROOM + "/context/{eventId}"): always,
    ("GET", _ROOM + "/event/{eventId}"): always,
    ("GET", _ROOM + "/state/{eventType}"): always,
    ("GET", _ROOM + "/state/{eventType}/{stateKey}"): always,
    ("GET", _ROOM + "/messages"): always,
    ("GET", _ROOM + "/members"): always,
    ("GET", _ROOM + "/initialSync"): always,
    ("GET", "/sync"): always,
    ("GET", "/events"): _is_preview,
    ("GET", "/media/download/{serverName}/{mediaId}"): always,
    ("GET", "/media/download/{serverName}/{mediaId}/{fileName}"): always,
    ("GET", "/media/thumbnail/{serverName}/{mediaId}"): always,
    # Sending events.
    ("POST", _ROOM + "/join"): always,
    ("POST", _ROOM + "/leave"): always,
    ("PUT", _ROOM + "/send/{eventType}/{txnId}"): always,
    ("PUT", _ROOM + "/state/{eventType}"): always,
    ("PUT", _ROOM + "/state/{eventType}/{stateKey}"): always,
    ("PUT", "/sendToDevice/{eventType}/{txnId}"): always,
    # MSC4140 §Guest accounts.
    ("PUT", f"/org.matrix.msc4140{_ROOM}/delayed_event/{{eventType}}/{{txnId}}"): always,
    ("GET", "/org.matrix.msc4140/delayed_events"): always,
    ("GET", "/org.matrix.msc4140/delayed_events/{delayId}"): always,
    # Their own account.
    ("PUT", "/profile/{userId}/{keyName}"): _is_display_name,
    ("DELETE", "/profile/{userId}/{keyName}"): _is_display_name,
    ("GET", "/devices"): always,
    ("GET", "/devices/{deviceId}"): always,
    ("PUT", "/devices/{deviceId}"): always,
    ("GET", "/account/whoami"): always,
    # End-to-end encryption.
    ("POST", "/keys/upload"): always,
    ("POST", "/keys/query"): always,
    ("POST", "/keys/claim"): always,
}


def may_ask_as_guest(call: Call) -> bool:
    """Whether a guest may make that request at all."""
    method = "GET" if call.request.method == "HEAD" else call.request.method
    condition = GUEST_ENDPOINTS.get((method, path_behind_version(call.template)))
    return condition is not None and condition(call)
