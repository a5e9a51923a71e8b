"""What administrators may do to accounts and know of sessions (client-server §Server Administration)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.moderation import Moderation

_V1 = "/_matrix/client/v1"


def routes(router: Router, guard: Guard, moderation: Moderation) -> None:
    """Add the routes of this family."""

    async def get_suspended(call: Call) -> Response:
        who = call.requester
        found = await moderation.standing(call.parameters["userId"], asked_by=who.user_id, by_admin=who.admin)
        return json_response({"suspended": found.suspended})

    async def put_suspended(call: Call) -> Response:
        who = call.requester
        # Who may not is told so first, whatever the body.
        await moderation.standing(call.parameters["userId"], asked_by=who.user_id, by_admin=who.admin)
        suspended: bool = call.field("suspended", bool)
        await moderation.set_standing(
            call.parameters["userId"], asked_by=who.user_id, by_admin=who.admin, suspended=suspended
        )
        return json_response({"suspended": suspended})

    async def get_locked(call: Call) -> Response:
        who = call.requester
        found = await moderation.standing(call.parameters["userId"], asked_by=who.user_id, by_admin=who.admin)
        return json_response({"locked": found.locked})

    async def put_locked(call: Call) -> Response:
        who = call.requester
        await moderation.standing(call.parameters["userId"], asked_by=who.user_id, by_admin=who.admin)
        locked: bool = call.field("locked", bool)
        await moderation.set_standing(
            call.parameters["userId"], asked_by=who.user_id, by_admin=who.admin, locked=locked
        )
        return json_response({"locked": locked})

    async def whois(call: Call) -> Response:
        who, user_id = call.requester, call.parameters["userId"]
        found = await moderation.connections(user_id, asked_by=who.user_id, by_admin=who.admin)
        return json_response({"user_id": user_id, "devices": found})

    router.add("GET", _V1 + "/admin/suspend/{userId}", get_suspended, guard=guard)
    router.add("PUT", _V1 + "/admin/suspend/{userId}", put_suspended, guard=guard)
    router.add("GET", _V1 + "/admin/lock/{userId}", get_locked, guard=guard)
    router.add("PUT", _V1 + "/admin/lock/{userId}", put_locked, guard=guard)
    add_classic(router, "GET", "/admin/whois/{userId}", whois, guard)
