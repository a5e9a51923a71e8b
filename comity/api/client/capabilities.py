"""What this server can do (client-server §Capabilities negotiation)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.config import Config
from comity.ports import Response
from comity.protocol.room_versions import ROOM_VERSIONS


def routes(router: Router, guard: Guard, config: Config) -> None:
    """Add the routes of this family."""
    capabilities = {
        "m.room_versions": {
            "default": config.rooms.default_version,
            "available": dict.fromkeys(ROOM_VERSIONS, "stable"),
        },
        "m.change_password": {"enabled": True},
        "m.profile_fields": {"enabled": True},
        "m.forget_forced_upon_leave": {"enabled": config.rooms.forget_upon_leave},
        # Deprecated forms of the one above.
        "m.set_displayname": {"enabled": True},
        "m.set_avatar_url": {"enabled": True},
        # Without letters, no address can be proven, and so none be added.
        "m.3pid_changes": {"enabled": config.email.smtp_url is not None},
        "m.get_login_token": {"enabled": True},
    }

    #: Others are not told of it at all.
    of_administrators = {"m.account_moderation": {"suspend": True, "lock": True}}

    #: What sessions of OAuth 2.0 cannot do, for want of a proof (client-server §OAuth 2.0 API).
    not_by_oauth = {
        "m.change_password": {"enabled": False},
        "m.3pid_changes": {"enabled": False},
        "m.get_login_token": {"enabled": False},
    }

    async def get(call: Call) -> Response:
        told = dict(capabilities)
        if call.requester.by_oauth:
            told |= not_by_oauth
        if call.requester.admin:
            told |= of_administrators
        return json_response({"capabilities": told})

    add_classic(router, "GET", "/capabilities", get, guard)
