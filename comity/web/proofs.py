"""What a page asks of somebody before something that cannot be undone: their password, or a new sign-in.

Owns what is shown; `comity.users.browsers` decides whether it is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comity.users.login import Login
from comity.users.upstream.links import Links
from comity.users.upstream.signing_in import UpstreamSignIn
from comity.web.pages import ROOT, Pages, Visit
from comity.web.sign_in import SignInOption


@dataclass(frozen=True, slots=True)
class Proof:
    """What the form of a page has in it, or beside it."""

    #: Whether the account has a password at all.
    has_password: bool
    #: Whether it was proven a short while ago who sits there.
    is_fresh: bool
    #: Ways to sign in again, and come back to the page.
    again: Sequence[SignInOption]


def begin_address(pages: Pages, provider: str, then: str) -> str:
    """Where a browser begins to sign in through a provider, to go on at `then`."""
    return pages.href(f"{ROOT}/upstream/{provider}/begin", then=then)


class Proofs:
    """Finds out what there is to ask."""

    def __init__(self, pages: Pages, login: Login, links: Links, upstream: UpstreamSignIn) -> None:
        self._pages = pages
        self._login = login
        self._links = links
        self._upstream = upstream

    async def wanted(self, visit: Visit, then: str) -> Proof:
        """What to ask of who is signed in, on the page at `then`."""
        user_id = visit.user.user_id
        issuers = [link.issuer for link in await self._links.usable(user_id)]
        again = [
            SignInOption(shown, begin_address(self._pages, name, then))
            for name, shown in self._upstream.providers_of(issuers)
        ]
        return Proof(await self._login.has_password(user_id), visit.user.is_fresh, again)
