"""What makes each table grow, for operators who ask where their disk goes."""

from __future__ import annotations

from collections.abc import Mapping

_EVENTS, _STATE = "with every event", "with every change of a room's state"
_MEMBERS, _USERS, _DEVICES = "with the members of rooms", "with accounts", "with devices"
_SERVERS, _ROOMS, _PASSING = "with the servers of rooms", "with rooms", "no: what is done with goes"

#: Table -> what a row of it comes with. A test holds it against the schema.
GROWTH: Mapping[str, str] = {
    "log_position": "no",
    "schema_versions": "no",
    "writer_lease": "no",
    "rooms": _ROOMS,
    "aliases": _ROOMS,
    "forward_extremities": _ROOMS,
    "gaps": _ROOMS,
    "events": _EVENTS,
    "search_words": "with every message, name and topic: their words",
    "search_progress": "no",
    "search_again": _PASSING,
    "state_slots": _STATE,
    "state_pages": _STATE,
    "room_heads": _STATE,
    "auth_citations": _STATE,
    "state_resolutions": "with every new fork of a room's state",
    "state_reversions": "with what state resolution takes back",
    "memberships": _MEMBERS,
    "local_memberships": "with every join and leave of a user of this server",
    "receipts": _MEMBERS,
    "server_stays": _SERVERS,
    "destinations": _SERVERS,
    "server_keys": _SERVERS,
    "outbound": "no: what every server has goes",
    "staged_events": _PASSING,
    "pending_redactions": _PASSING,
    "received_transactions": "no: a week is kept",
    "client_transactions": "no: a week is kept",
    "to_device": _PASSING,
    "position_times": "no: a month is kept",
    "refused_events": "with events that other servers refuse; a month is kept",
    "partial_rooms": "with large rooms of other servers that users of this one join",
    "outbound_to_device": _PASSING,
    "received_to_device": "no: a month is kept",
    "device_changes": _DEVICES,
    "cross_signing_keys": _USERS,
    "remote_devices": "with the devices of users of other servers in encrypted rooms",
    "remote_device_lists": "with users of other servers in encrypted rooms",
    "openid_tokens": "no: what has expired goes",
    "key_documents": _SERVERS,
    "users": _USERS,
    "profiles": _USERS,
    "account_data": _USERS,
    "filters": _USERS,
    "registration_tokens": "with those you give out",
    "devices": _DEVICES,
    "access_tokens": _DEVICES,
    "device_keys": _DEVICES,
    "device_lists": _USERS,
    "one_time_keys": _DEVICES,
    "fallback_keys": _DEVICES,
    "relations": "with replies in threads, edits, reactions",
    "threads": "with threads",
    "notifications": "with messages",
    "mentions": "with mentions of users of this server",
    "room_activity": _ROOMS,
}
