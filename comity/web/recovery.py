"""What somebody does who has forgotten their password, where no mail can be sent."""

from __future__ import annotations

from comity.config import Config
from comity.ports import Response
from comity.web.pages import ROOT, Pages, Visit

RECOVER = f"{ROOT}/recover"


class RecoveryPage:
    """Says whom to ask."""

    def __init__(self, config: Config) -> None:
        self._support = config.support

    def routes(self, pages: Pages) -> None:
        """Add the routes of this family."""
        pages.add("GET", RECOVER, self._show)

    async def _show(self, visit: Visit) -> Response:
        return visit.page(
            "recover.html", contacts=self._support.contacts, support_page=self._support.support_page
        )
