"""Signing in through another provider: the way there and back, and what is asked of who has no account yet.

Owns the pages; who somebody is, and what follows, is decided by `comity.users.upstream`.
"""

from __future__ import annotations

from comity.ports import Response
from comity.protocol.errors import MatrixError
from comity.users.browsers import Browsers
from comity.users.login import Login
from comity.users.upstream.purposes import ForBrowser, ForClient, ForLink, ForStage
from comity.users.upstream.signing_in import Came, Newcomer, SignedIn, UpstreamSignIn
from comity.web.forms import Form
from comity.web.pages import ROOT, Pages, Visit, own_address
from comity.web.proofs import begin_address
from comity.web.sign_in import SignInOption
from comity.web.sign_ins import SIGN_INS
from comity.web.sso import SingleSignOn

CHOOSE = f"{ROOT}/upstream/choose"
LINK = f"{ROOT}/upstream/link"
#: Parameters by which providers say more than we ask for are ignored; of these there may be one each.
_BROUGHT = ("state", "code", "error", "iss")


class UpstreamPages:
    """There and back."""

    def __init__(
        self,
        pages: Pages,
        upstream: UpstreamSignIn,
        login: Login,
        browsers: Browsers,
        single_sign_on: SingleSignOn,
    ) -> None:
        self._pages = pages
        self._upstream = upstream
        self._login = login
        self._browsers = browsers
        self._single_sign_on = single_sign_on

    def routes(self) -> None:
        """Add the routes of this family."""
        pages = self._pages
        pages.add("GET", f"{ROOT}/upstream/{{provider}}/begin", self._begin)
        pages.add("GET", f"{ROOT}/upstream/{{provider}}/callback", self._come_back)
        pages.add("GET", CHOOSE, self._show_newcomer)
        pages.add("POST", CHOOSE, self._register)
        pages.add("POST", LINK, self._link)

    def options(self, then: str) -> list[SignInOption]:
        """Every provider, for the page on which people sign in to go on at `then`."""
        return [
            SignInOption(shown, begin_address(self._pages, name, then))
            for name, shown in self._upstream.providers()
        ]

    async def _begin(self, visit: Visit) -> Response:
        """Sign in to the pages, and go on at `then`."""
        purpose = ForBrowser(own_address(visit.query.text("then")))
        name = visit.call.parameters["provider"]
        return visit.redirect_away(await self._upstream.begin(name, purpose, visit.binding, visit.address))

    async def _come_back(self, visit: Visit) -> Response:
        brought = _brought(visit)
        came = Came(brought.text("state"), brought.get("code"), brought.get("error"), brought.get("iss"))
        outcome = await self._upstream.come_back(
            visit.call.parameters["provider"], came, visit.binding, visit.address
        )
        if isinstance(outcome, Newcomer):
            return visit.redirect(CHOOSE, ticket=outcome.ticket)
        return await self._go_on(visit, outcome)

    async def _go_on(self, visit: Visit, signed_in: SignedIn) -> Response:
        """What somebody signed in for."""
        purpose = signed_in.purpose
        if isinstance(purpose, ForClient):
            return await self._single_sign_on.admit(visit, signed_in.user_id, purpose.redirect_url)
        if isinstance(purpose, ForStage):
            return visit.page("auth_done.html", with_scripts=True)
        if isinstance(purpose, ForLink):
            return visit.redirect(SIGN_INS, linked="yes")
        await self._browsers.sign_out(visit.token)
        visit.signed_in(await self._browsers.open(signed_in.user_id, visit.address, visit.user_agent))
        return visit.redirect(purpose.then)

    # -- newcomers

    async def _show_newcomer(self, visit: Visit) -> Response:
        return self._newcomer_page(visit, visit.query.text("ticket"))

    async def _register(self, visit: Visit) -> Response:
        ticket, name = visit.form.text("ticket"), visit.form.text("name").strip()
        try:
            signed_in = await self._upstream.register(
                ticket, visit.binding, name, visit.address, accepts=bool(visit.form.text("terms"))
            )
        except MatrixError as error:
            if error.status not in (400, 429):
                raise
            return self._newcomer_page(visit, ticket, name=name, problem=error.text, status=error.status)
        return await self._go_on(visit, signed_in)

    async def _link(self, visit: Visit) -> Response:
        """Link an account that is theirs: by its password, or as they are signed in to it here."""
        ticket, name = visit.form.text("ticket"), visit.form.text("user").strip()
        try:
            if visit.browser is not None and visit.form.text("signed_in"):
                user_id = visit.browser.user_id
            else:
                account = await self._login.check_person(name, visit.form.text("password"), visit.address)
                user_id = account.user_id
            signed_in = await self._upstream.link_newcomer(ticket, visit.binding, user_id)
        except MatrixError as error:
            if error.status not in (401, 403, 429):
                raise
            return self._newcomer_page(visit, ticket, user=name, link_problem=error.text, status=error.status)
        return await self._go_on(visit, signed_in)

    def _newcomer_page(
        self,
        visit: Visit,
        ticket: str,
        *,
        name: str | None = None,
        user: str = "",
        problem: str = "",
        link_problem: str = "",
        status: int = 200,
    ) -> Response:
        newcomer = self._upstream.newcomer(ticket, visit.binding)
        return visit.page(
            "upstream_choose.html",
            status=status,
            ticket=ticket,
            newcomer=newcomer,
            name=newcomer.suggested if name is None else name,
            user=user,
            problem=problem,
            link_problem=link_problem,
            form_targets=self._single_sign_on.targets(newcomer.purpose),
        )


def _brought(visit: Visit) -> Form:
    """What the provider sent the browser back with."""
    return Form(
        {name: visit.call.query(name) or "" for name in _BROUGHT if visit.call.query(name) is not None}
    )
