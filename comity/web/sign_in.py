"""Signing in to the pages, and out."""

from __future__ import annotations

from comity.ports import Response
from comity.protocol.errors import MatrixError
from comity.users.browsers import Browsers
from comity.web.pages import ROOT, SIGN_IN, Pages, Visit, own_address

SIGN_OUT = f"{ROOT}/sign-out"


class SignIn:
    """The page where people say who they are."""

    def __init__(self, browsers: Browsers) -> None:
        self._browsers = browsers

    def routes(self, pages: Pages) -> None:
        """Add the routes of this family."""
        pages.add("GET", SIGN_IN, self._show)
        pages.add("POST", SIGN_IN, self._sign_in)
        pages.add("POST", SIGN_OUT, self._sign_out)

    async def _show(self, visit: Visit) -> Response:
        then = own_address(visit.query.text("then"))
        if visit.browser is not None:
            return visit.redirect(then)
        return self._page(visit, then)

    async def _sign_in(self, visit: Visit) -> Response:
        then, name = own_address(visit.form.text("then")), visit.form.text("name").strip()
        try:
            token = await self._browsers.sign_in(
                name, visit.form.text("password"), visit.address, visit.user_agent
            )
        except MatrixError as error:
            return self._page(visit, then, name=name, problem=error.text, status=error.status)
        visit.signed_in(token)
        return visit.redirect(then)

    async def _sign_out(self, visit: Visit) -> Response:
        await self._browsers.sign_out(visit.token)
        visit.signed_out()
        return visit.redirect(SIGN_IN)

    def _page(
        self, visit: Visit, then: str, *, name: str = "", problem: str = "", status: int = 200
    ) -> Response:
        return visit.page("sign_in.html", status=status, then=then, name=name, problem=problem)
