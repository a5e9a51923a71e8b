"""The part of the account page on which people link their account to other providers, and unlink it.

Both let somebody in, or keep them out, from then on: they are asked for a fresh proof of who they are.
"""

from __future__ import annotations

from comity.ports import Response
from comity.protocol.errors import MatrixError
from comity.users.browsers import Browsers
from comity.users.upstream.links import Links
from comity.users.upstream.purposes import ForLink
from comity.users.upstream.signing_in import UpstreamSignIn
from comity.web.pages import ACCOUNT, Pages, Visit
from comity.web.proofs import Proofs

SIGN_INS = f"{ACCOUNT}/sign-ins"
UNLINK = f"{SIGN_INS}/unlink"


class SignIns:
    """`/_comity/account/sign-ins`."""

    def __init__(self, upstream: UpstreamSignIn, links: Links, browsers: Browsers, proofs: Proofs) -> None:
        self._upstream = upstream
        self._links = links
        self._browsers = browsers
        self._proofs = proofs

    def routes(self, pages: Pages) -> None:
        """Add the routes of this family."""
        pages.add("GET", SIGN_INS, self._show, signed_in=True)
        pages.add("POST", SIGN_INS, self._link, signed_in=True)
        pages.add("POST", UNLINK, self._unlink, signed_in=True)

    async def _show(self, visit: Visit) -> Response:
        return await self._page(visit, done="The sign-in is linked." if visit.query.text("linked") else "")

    async def _link(self, visit: Visit) -> Response:
        try:
            await self._prove(visit)
            purpose = ForLink(visit.user.user_id)
            name = visit.form.text("provider")
            url = await self._upstream.begin(name, purpose, visit.binding, visit.address)
        except MatrixError as error:
            return await self._failed(visit, error)
        # Not by a redirect: the page's policy holds for wherever its form leads, through all redirects.
        return visit.page("going_on.html", url=url)

    async def _unlink(self, visit: Visit) -> Response:
        form = visit.form
        try:
            await self._prove(visit)
            await self._links.unlink(visit.user.user_id, form.text("issuer"), form.text("subject"))
        except MatrixError as error:
            return await self._failed(visit, error)
        return await self._page(visit, done="The sign-in is unlinked.")

    async def _prove(self, visit: Visit) -> None:
        """Raises 403 M_FORBIDDEN unless it is certain who sits there, 429 M_LIMIT_EXCEEDED."""
        if not visit.user.is_fresh:
            password = visit.form.text("password")
            await self._browsers.prove(visit.token, visit.user.user_id, password, visit.address)

    async def _failed(self, visit: Visit, error: MatrixError) -> Response:
        if error.status not in (403, 404, 429, 502):
            raise error
        return await self._page(visit, problem=error.text, status=error.status)

    async def _page(self, visit: Visit, *, done: str = "", problem: str = "", status: int = 200) -> Response:
        links = await self._links.of_user(visit.user.user_id)
        return visit.page(
            "sign_ins.html",
            status=status,
            links=[(link, self._upstream.shown(link.issuer)) for link in links],
            providers=self._upstream.providers(),
            here="sign-ins",
            proof=await self._proofs.wanted(visit, SIGN_INS),
            done=done,
            problem=problem,
        )
