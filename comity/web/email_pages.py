"""The page that the link in a letter opens: what is to be confirmed, and a button that does it.

Opening it does nothing: programs that look into letters open every link. Owns what is shown; the
proof itself is `comity.users.validation`'s.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from comity.ports import Response
from comity.users.validation import ADD, CONFIRM_PATH, REGISTER, RESET, Validations
from comity.web.pages import Pages, Visit

#: What is about to happen, by what a session is for.
_PURPOSES = {
    REGISTER: "An account is being made with this e-mail address.",
    ADD: "This e-mail address is being added to an account.",
    RESET: "Somebody wants to set a new password for the account with this e-mail address. Confirm it only "
    "if that is you: whoever it is can then do so.",
}


class EmailPages:
    """Confirming an e-mail address."""

    def __init__(self, validations: Validations) -> None:
        self._validations = validations

    def routes(self, pages: Pages) -> None:
        """Add the routes of this family."""
        pages.add("GET", CONFIRM_PATH, self._show)
        pages.add("POST", CONFIRM_PATH, self._confirm)

    async def _show(self, visit: Visit) -> Response:
        sid, token = visit.query.text("sid"), visit.query.text("token")
        session = await self._validations.shown(sid, token, visit.address)
        return visit.page(
            "email_confirm.html",
            what=_PURPOSES[session.purpose],
            address=session.written,
            account=session.user_id or "",
            sid=sid,
            code=token,
            host=_host(session.next_link),
        )

    async def _confirm(self, visit: Visit) -> Response:
        sid, token = visit.form.text("sid"), visit.form.text("code")
        session = await self._validations.submit(sid, token, None, visit.address)
        return visit.page(
            "email_confirmed.html",
            address=session.written,
            next_link=session.next_link or "",
            host=_host(session.next_link),
        )


def _host(url: str | None) -> str:
    """The host that a link leads to, for people to see."""
    return urlsplit(url).netloc if url else ""
