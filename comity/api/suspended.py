"""What users may ask while they are suspended (client-server §Account suspension): the one list of it.

They may read whatever they could read; of what changes something, they may do what stands here. That
they redact nobody's events but their own is decided where events are sent.
"""

from __future__ import annotations

from collections.abc import Mapping

from comity.api.router import Call, Condition, always, path_behind_version


def _is_redaction(call: Call) -> bool:
    return call.parameters["eventType"] == "m.room.redaction"


_ROOM = "/rooms/{roomId}"
#: (method, the path behind the version) of what may be asked beside all that is only read.
OPEN_TO_SUSPENDED: Mapping[tuple[str, str], Condition] = {
    # Their sessions, and the end of the account.
    ("POST", "/logout"): always,
    ("POST", "/logout/all"): always,
    ("POST", "/login/get_token"): always,
    ("POST", "/account/password"): always,
    ("POST", "/account/deactivate"): always,
    # Their addresses stay (no changelog is kept of them); what identity servers know of them need not.
    ("POST", "/account/3pid/unbind"): always,
    ("PUT", "/devices/{deviceId}"): always,
    ("DELETE", "/devices/{deviceId}"): always,
    ("POST", "/delete_devices"): always,
    # See and receive messages, and search them.
    ("POST", "/user/{userId}/filter"): always,
    ("POST", _ROOM + "/receipt/{receiptType}/{eventId}"): always,
    ("POST", _ROOM + "/read_markers"): always,
    ("POST", "/search"): always,
    ("POST", "/publicRooms"): always,
    ("POST", "/user_directory/search"): always,
    ("POST", "/org.matrix.simplified_msc3575/sync"): always,
    ("POST", "/sync"): always,
    # Verify other devices, cross-sign, back keys up. What belongs to it stands in account data too.
    ("POST", "/keys/upload"): always,
    ("POST", "/keys/upload/{deviceId}"): always,
    ("POST", "/keys/query"): always,
    ("POST", "/keys/claim"): always,
    ("POST", "/keys/device_signing/upload"): always,
    ("POST", "/keys/signatures/upload"): always,
    ("PUT", "/sendToDevice/{eventType}/{txnId}"): always,
    ("POST", "/room_keys/version"): always,
    ("PUT", "/room_keys/version/{version}"): always,
    ("DELETE", "/room_keys/version/{version}"): always,
    ("PUT", "/room_keys/keys"): always,
    ("PUT", "/room_keys/keys/{roomId}"): always,
    ("PUT", "/room_keys/keys/{roomId}/{sessionId}"): always,
    ("DELETE", "/room_keys/keys"): always,
    ("DELETE", "/room_keys/keys/{roomId}"): always,
    ("DELETE", "/room_keys/keys/{roomId}/{sessionId}"): always,
    ("PUT", "/user/{userId}/account_data/{type}"): always,
    ("PUT", "/user/{userId}/rooms/{roomId}/account_data/{type}"): always,
    # What they are told of.
    ("POST", "/pushers/set"): always,
    ("PUT", "/pushrules/global/{kind}/{ruleId}"): always,
    ("DELETE", "/pushrules/global/{kind}/{ruleId}"): always,
    ("PUT", "/pushrules/global/{kind}/{ruleId}/enabled"): always,
    ("PUT", "/pushrules/global/{kind}/{ruleId}/actions"): always,
    # Leave rooms, reject invites, redact.
    ("POST", _ROOM + "/leave"): always,
    ("POST", _ROOM + "/forget"): always,
    ("PUT", _ROOM + "/redact/{eventId}/{txnId}"): always,
    ("PUT", _ROOM + "/send/{eventType}/{txnId}"): _is_redaction,
}


def may_ask_while_suspended(call: Call) -> bool:
    """Whether somebody who is suspended may make that request at all."""
    if call.request.method in ("GET", "HEAD"):
        return True
    condition = OPEN_TO_SUSPENDED.get((call.request.method, path_behind_version(call.template)))
    return condition is not None and condition(call)
