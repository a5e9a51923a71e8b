"""The e-mail addresses of one's account, on its page (client-server §Account management, contact details).

Sessions of OAuth 2.0 cannot give the proof that adding one takes; their users do it here.
"""

from __future__ import annotations

from collections.abc import Mapping

from comity.ports import Response
from comity.protocol.errors import MatrixError, user_suspended
from comity.users.interactive import PASSWORD
from comity.users.third_party_ids import ThirdPartyIds
from comity.web.pages import ACCOUNT, Pages, Visit

ADDRESSES = f"{ACCOUNT}/addresses"
CONFIRMED = f"{ACCOUNT}/addresses/confirmed"
REMOVE = f"{ACCOUNT}/addresses/remove"
#: What is carried from the letter that was asked for to the confirmed address.
CARRIED = ("email", "sid", "secret")
#: What is told after a form was sent, by the `done` of the address.
DONE = {"added": "The address has been added.", "removed": "The address has been removed."}


class AddressPages:
    """Lists addresses, adds one by a letter to it, removes one."""

    def __init__(self, third_party_ids: ThirdPartyIds, pages: Pages, *, sends_letters: bool) -> None:
        self._third_party_ids = third_party_ids
        self._pages = pages
        self._sends_letters = sends_letters

    def routes(self) -> None:
        """Add the routes of this family."""
        self._pages.add("GET", ADDRESSES, self._show, signed_in=True)
        self._pages.add("POST", ADDRESSES, self._ask, signed_in=True)
        self._pages.add("POST", CONFIRMED, self._confirmed, signed_in=True)
        self._pages.add("POST", REMOVE, self._remove, signed_in=True)

    async def _show(self, visit: Visit) -> Response:
        return await self._page(visit)

    async def _page(self, visit: Visit, problem: str = "", status: int = 200) -> Response:
        return visit.page(
            "addresses.html",
            status=status,
            here="profile",
            addresses=await self._third_party_ids.all(visit.user.user_id),
            sends_letters=self._sends_letters,
            email=visit.form.text("email"),
            problem=problem,
            done=DONE.get(visit.query.text("done"), ""),
        )

    async def _ask(self, visit: Visit) -> Response:
        """Have a letter sent to the address."""
        email, secret, user_id = visit.form.text("email").strip(), self._pages.new_token(), visit.user.user_id
        body = {"client_secret": secret, "email": email, "send_attempt": 1}
        try:
            _check_not_suspended(visit)
            asked = await self._third_party_ids.request_token(body, visit.address, user_id)
        except MatrixError as error:
            return await self._page(visit, error.text, error.status)
        return self._waiting(visit, {"email": email, "sid": str(asked["sid"]), "secret": secret})

    async def _confirmed(self, visit: Visit) -> Response:
        """The link in the letter was opened, and the password is given."""
        form = visit.form
        body = {"auth": {"type": PASSWORD, "password": form.text("password")}}
        credentials = {"sid": form.text("sid"), "client_secret": form.text("secret")}
        try:
            _check_not_suspended(visit)
            await self._third_party_ids.add(visit.user.user_id, body, credentials)
        except MatrixError as error:
            carried = {name: form.text(name) for name in CARRIED}
            return self._waiting(visit, carried, error.text, error.status)
        return visit.redirect(ADDRESSES, done="added")

    def _waiting(
        self, visit: Visit, carried: Mapping[str, str], problem: str = "", status: int = 200
    ) -> Response:
        return visit.page(
            "address_confirm.html", status=status, here="profile", carried=dict(carried), problem=problem
        )

    async def _remove(self, visit: Visit) -> Response:
        given = {name: visit.form.required(name) for name in ("medium", "address")}
        _check_not_suspended(visit)
        await self._third_party_ids.delete(visit.user.user_id, given)
        return visit.redirect(ADDRESSES, done="removed")


def _check_not_suspended(visit: Visit) -> None:
    if visit.user.suspended:
        raise user_suspended()
