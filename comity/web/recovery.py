"""What somebody does who has forgotten their password: a letter lets them set another, if any can be sent.

The address is proven to the browser that asked, and to no other: what stands for it is made of its cookie.
"""

from __future__ import annotations

from comity.config import Config
from comity.ports import Response
from comity.protocol.errors import MatrixError, invalid_param
from comity.users.password_resets import PasswordResets
from comity.web.pages import ROOT, Pages, Visit

RECOVER = f"{ROOT}/recover"
RECOVER_PASSWORD = f"{RECOVER}/password"


class RecoveryPage:
    """Sends the letter and takes the new password, or says whom to ask."""

    def __init__(self, config: Config, resets: PasswordResets) -> None:
        self._support = config.support
        self._resets = resets

    def routes(self, pages: Pages) -> None:
        """Add the routes of this family."""
        pages.add("GET", RECOVER, self._show)
        pages.add("POST", RECOVER, self._write)
        pages.add("POST", RECOVER_PASSWORD, self._set)

    async def _show(self, visit: Visit) -> Response:
        return self._page(visit)

    def _page(self, visit: Visit, *, email: str = "", problem: str = "", status: int = 200) -> Response:
        return visit.page(
            "recover.html", status=status, contacts=self._support.contacts, email=email, problem=problem,
            support_page=self._support.support_page, by_email=self._resets.enabled,
        )  # fmt: skip

    async def _write(self, visit: Visit) -> Response:
        email = visit.form.text("email").strip()
        try:
            sid = await self._resets.begin(email, visit.binding.hex(), visit.address)
        except MatrixError as error:
            return self._page(visit, email=email, problem=error.text, status=error.status)
        return visit.page("recover_set.html", email=email, sid=sid, problem="")

    async def _set(self, visit: Visit) -> Response:
        form = visit.form
        try:
            if form.text("new") != form.text("again"):
                raise invalid_param("The two passwords are not the same")
            user_id = await self._resets.complete(
                form.text("sid"), visit.binding.hex(), form.text("new"), visit.address
            )
        except MatrixError as error:
            return visit.page(
                "recover_set.html", status=error.status, email=form.text("email"), sid=form.text("sid"),
                problem=error.text,
            )  # fmt: skip
        return visit.page("recover_done.html", account=user_id)
