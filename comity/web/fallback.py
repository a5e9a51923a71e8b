"""Stages of user-interactive authentication in a browser, for apps that do not know them (client-server
§Fallback).

Owns the pages. What a stage takes is checked by whoever asked for it (`comity.users.interactive`); for
`m.login.sso`, a provider is asked, once the user has read what it is for.
"""

from __future__ import annotations

from collections.abc import Mapping

from comity.api.client.prefixes import CLASSIC_VERSIONS
from comity.ports import Response
from comity.protocol.errors import MatrixError, not_found
from comity.users.interactive import DUMMY, PASSWORD, REGISTRATION_TOKEN, SSO, TERMS, Interactive, UnderWay
from comity.users.upstream.links import Links
from comity.users.upstream.purposes import ForStage
from comity.users.upstream.signing_in import LANGUAGE, UpstreamSignIn
from comity.web.pages import Pages, Visit

#: Stage -> the field of its form, as a client would send it in `auth`; None if there is nothing to write.
FIELDS: Mapping[str, str | None] = {
    PASSWORD: "password",
    REGISTRATION_TOKEN: "token",
    TERMS: None,
    DUMMY: None,
}
#: How an operation begins -> what people are told that the app wants to do.
OPERATIONS: Mapping[str, str] = {
    "delete devices": "sign out devices of your account",
    "upload signing keys": "replace the keys with which your account proves your devices to others",
    "change password": "set a new password for your account",
    "deactivate": "end your account for good",
    "get login token": "sign another app in to your account",
    "register": "make an account on this server",
}
MAX_SESSION_CHARACTERS = 200


class Fallback:
    """`/auth/{stage}/fallback/web`."""

    def __init__(self, interactive: Interactive, upstream: UpstreamSignIn, links: Links) -> None:
        self._interactive = interactive
        self._upstream = upstream
        self._links = links

    def routes(self, pages: Pages) -> None:
        """Add the routes of this family."""
        for version in CLASSIC_VERSIONS:
            path = f"/_matrix/client/{version}/auth/{{authType}}/fallback/web"
            pages.add("GET", path, self._show)
            pages.add("POST", path, self._complete)

    async def _show(self, visit: Visit) -> Response:
        stage, session_id = visit.call.parameters["authType"], visit.call.query("session") or ""
        return await self._page(visit, stage, session_id)

    async def _page(
        self, visit: Visit, stage: str, session_id: str, problem: str = "", status: int = 200
    ) -> Response:
        under_way = self._under_way(stage, session_id)
        providers: list[tuple[str, str]] = []
        if stage == SSO and under_way.user_id is not None:
            issuers = [link.issuer for link in await self._links.usable(under_way.user_id)]
            providers = self._upstream.providers_of(issuers)
        return visit.page(
            "auth_stage.html",
            status=status,
            stage=stage,
            session=session_id,
            wanted=_told(under_way.operation),
            user=under_way.user_id,
            providers=providers,
            policies=_policies(under_way),
            problem=problem,
        )

    def _under_way(self, stage: str, session_id: str) -> UnderWay:
        if stage != SSO and stage not in FIELDS:
            raise not_found("This server has no page for that step")
        found = self._interactive.under_way(session_id[:MAX_SESSION_CHARACTERS])
        if found is None or stage not in found.open_stages:
            raise not_found("This step is done already, or took too long: go back to the app, and try again")
        return found

    async def _complete(self, visit: Visit) -> Response:
        stage, session_id = visit.call.parameters["authType"], visit.form.text("session")
        self._under_way(stage, session_id)
        if stage == SSO:
            name = visit.form.text("provider")
            url = await self._upstream.begin(name, ForStage(session_id), visit.binding, visit.address)
            # Not by a redirect: the page's policy holds for wherever its form leads, through all redirects.
            return visit.page("going_on.html", url=url)
        field = FIELDS[stage]
        auth = {"type": stage, "session": session_id}
        if field is not None:
            auth[field] = visit.form.text(field)
        try:
            await self._interactive.complete(session_id, stage, auth)
        except MatrixError as error:
            if error.status not in (400, 401, 403, 429):
                raise
            return await self._page(visit, stage, session_id, problem=error.text, status=error.status)
        return visit.page("auth_done.html", with_scripts=True)


def _policies(under_way: UnderWay) -> list[Mapping[str, str]]:
    """The name and URL of each policy to be accepted (client-server §Terms of service at registration)."""
    terms = under_way.params.get(TERMS)
    policies = terms.get("policies", {}) if isinstance(terms, Mapping) else {}
    found = []
    for policy in policies.values():
        languages = [value for name, value in policy.items() if name != "version"]
        found.append(policy.get(LANGUAGE) or languages[0])
    return found


def _told(operation: str) -> str:
    """What an operation is, in words for its user."""
    for beginning, words in OPERATIONS.items():
        if operation.startswith(beginning):
            return words
    return "do something for which this server wants to be sure that it is you"
