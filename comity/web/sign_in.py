"""Signing in to the pages, and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from comity.ports import Response
from comity.protocol.errors import MatrixError
from comity.users.browsers import Browsers
from comity.web.pages import ROOT, SIGN_IN, Pages, Visit, own_address

SIGN_OUT = f"{ROOT}/sign-out"


@dataclass(frozen=True, slots=True)
class SignInOption:
    """Another way to sign in than by a password: what its link says, and where it leads."""

    label: str
    href: str


#: The other ways, for who goes on at that address of ours.
SignInOptions = Callable[[str], Sequence[SignInOption]]


def no_options(then: str) -> Sequence[SignInOption]:
    """A password, and nothing else."""
    return ()


class SignIn:
    """The page where people say who they are."""

    def __init__(
        self, browsers: Browsers, *, registration_open: bool, options: SignInOptions = no_options
    ) -> None:
        self._browsers = browsers
        self._registration_open = registration_open
        self._options = options

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
        return visit.redirect(SIGN_IN, then=own_address(visit.form.text("then")))

    def _page(
        self, visit: Visit, then: str, *, name: str = "", problem: str = "", status: int = 200
    ) -> Response:
        return visit.page(
            "sign_in.html",
            status=status,
            then=then,
            name=name,
            problem=problem,
            registration_open=self._registration_open,
            options=self._options(then),
        )
