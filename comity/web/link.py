"""Where users enter the code that an app on another device shows (RFC 8628 §3.3)."""

from __future__ import annotations

from comity.ports import Response
from comity.protocol.errors import MatrixError
from comity.users.oauth.device_grant import DeviceGrant
from comity.users.oauth.endpoints import LINK
from comity.web.pages import Pages, Visit


class LinkPage:
    """The page where a user lets an app on another device in."""

    def __init__(self, device_grant: DeviceGrant) -> None:
        self._device_grant = device_grant

    def routes(self, pages: Pages) -> None:
        """Add the routes of this family."""
        pages.add("GET", LINK, self._show, signed_in=True)
        pages.add("POST", LINK, self._go_on, signed_in=True)

    async def _show(self, visit: Visit) -> Response:
        return visit.page("link.html", code=visit.query.text("user_code"), problem="")

    async def _go_on(self, visit: Visit) -> Response:
        """The code was entered, or it was decided on."""
        code, decision = visit.form.text("user_code"), visit.form.text("decision")
        user_id = visit.user.user_id
        try:
            if decision:
                await self._device_grant.decide(code, user_id, visit.address, approves=decision == "allow")
                return visit.page("link_done.html", approved=decision == "allow")
            waiting = await self._device_grant.waiting(code, user_id, visit.address)
        except MatrixError as error:
            if error.status >= 500:
                raise
            return visit.page("link.html", status=error.status, code=code, problem=error.text)
        return visit.page(
            "link_confirm.html",
            client=waiting.client.metadata,
            device_id=waiting.device_id,
            code=waiting.user_code,
            same_place=waiting.address == visit.address,
            address=waiting.address,
        )
