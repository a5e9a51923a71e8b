"""What administrators may do to accounts and know of sessions (client-server §Server Administration)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.moderation import Moderation

_V1 = "/_matrix/client/v1"


def routes(router: Router, guard: Guard, moderation: Moderation) -> None:
    """Add the routes of this family."""

    def add_standing(path: str, name: str) -> None:
        """Both routes of one thing that an account may be: read, set."""

        async def get(call: Call) -> Response:
            who = call.requester
            found = await moderation.standing(
                call.parameters["userId"], asked_by=who.user_id, by_admin=who.admin
            )
            return json_response({name: getattr(found, name)})

        async def put(call: Call) -> Response:
            who = call.requester
            # Who may not is told so first, whatever the body.
            await moderation.standing(call.parameters["userId"], asked_by=who.user_id, by_admin=who.admin)
            value: bool = call.field(name, bool)
            await moderation.set_standing(
                call.parameters["userId"], asked_by=who.user_id, by_admin=who.admin, **{name: value}
            )
            return json_response({name: value})

        router.add("GET", _V1 + path, get, guard=guard)
        router.add("PUT", _V1 + path, put, guard=guard)

    add_standing("/admin/suspend/{userId}", "suspended")
    add_standing("/admin/lock/{userId}", "locked")

    async def whois(call: Call) -> Response:
        who, user_id = call.requester, call.parameters["userId"]
        found = await moderation.connections(user_id, asked_by=who.user_id, by_admin=who.admin)
        return json_response({"user_id": user_id, "devices": found})

    add_classic(router, "GET", "/admin/whois/{userId}", whois, guard)
