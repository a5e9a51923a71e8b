"""`m.login.sso`: letting apps in through this server's pages (client-server §Client login via SSO).

Owns `/login/sso/redirect`, the page on which people choose how to sign in, and the one that asks whether an
app may be let in. How tokens are made is `comity.users.login_tokens`' affair.
"""

from __future__ import annotations

from urllib.parse import urlencode

from comity.api.client.prefixes import CLASSIC_VERSIONS
from comity.ports import Response
from comity.protocol.errors import invalid_param, missing_param
from comity.users.upstream import clients
from comity.users.upstream.purposes import ForClient, Purpose
from comity.users.upstream.signing_in import Allowed, UpstreamSignIn
from comity.web.pages import ROOT, SIGN_IN, Pages, Visit

CHOOSE = f"{ROOT}/sso"
ALLOW = f"{ROOT}/sso/allow"
#: What an app may say that its user wants (`action`).
ACTIONS = ("login", "register")


class SingleSignOn:
    """Apps come, and are let in."""

    def __init__(self, upstream: UpstreamSignIn) -> None:
        self._upstream = upstream

    def routes(self, pages: Pages) -> None:
        """Add the routes of this family."""
        for version in CLASSIC_VERSIONS:
            pages.add("GET", f"/_matrix/client/{version}/login/sso/redirect", self._redirect)
            pages.add("GET", f"/_matrix/client/{version}/login/sso/redirect/{{idpId}}", self._redirect_to)
        pages.add("GET", CHOOSE, self._choose)
        pages.add("POST", CHOOSE, self._continue)
        pages.add("GET", ALLOW, self._ask)
        pages.add("POST", ALLOW, self._allow)

    # -- how to sign in

    async def _redirect(self, visit: Visit) -> Response:
        """`GET /login/sso/redirect`: to the only provider, or to the page on which people choose.

        An app that says what its user wants knows that passwords are asked for there too (client-server
        §OAuth 2.0 aware clients).
        """
        redirect_url, action = _redirect_url(visit), _action(visit)
        providers = self._upstream.providers()
        if len(providers) == 1 and action is None and visit.browser is None:
            return await self._to_provider(visit, providers[0][0], redirect_url)
        return _found(visit.redirect(CHOOSE, **_query(redirect_url, action)))

    async def _redirect_to(self, visit: Visit) -> Response:
        """`GET /login/sso/redirect/{idpId}`: to that provider."""
        _action(visit)
        return await self._to_provider(visit, visit.call.parameters["idpId"], _redirect_url(visit))

    async def _to_provider(self, visit: Visit, name: str, redirect_url: str) -> Response:
        purpose = ForClient(redirect_url)
        url = await self._upstream.begin(name, purpose, visit.binding, visit.address)
        return _found(visit.redirect_away(url))

    async def _choose(self, visit: Visit) -> Response:
        redirect_url, action = _redirect_url(visit), _action(visit)
        return visit.page(
            "sso_choose.html",
            where=clients.where(redirect_url),
            redirect_url=redirect_url,
            providers=self._upstream.providers(),
            sign_in=SIGN_IN,
            then=f"{CHOOSE}?{urlencode(_query(redirect_url, action))}",
            form_targets=[clients.form_target(redirect_url)],
        )

    async def _continue(self, visit: Visit) -> Response:
        """Whoever is signed in to the pages has read where the app is, and agrees."""
        redirect_url = clients.checked_redirect(visit.form.required("redirectUrl"))
        if visit.browser is None:
            return visit.redirect(CHOOSE, redirectUrl=redirect_url)
        return visit.redirect_away((await self._upstream.let_in(visit.browser.user_id, redirect_url)).url)

    # -- whether to let an app in

    async def admit(self, visit: Visit, user_id: str, redirect_url: str) -> Response:
        """Let an app in whose user has signed in, or ask them first."""
        admitted = await self._upstream.admit(user_id, redirect_url, visit.binding)
        if isinstance(admitted, Allowed):
            return visit.redirect_away(admitted.url)
        return visit.redirect(ALLOW, ticket=admitted.ticket)

    def targets(self, purpose: Purpose) -> list[str]:
        """Where the last form before that purpose is reached may lead."""
        return [clients.form_target(purpose.redirect_url)] if isinstance(purpose, ForClient) else []

    async def _ask(self, visit: Visit) -> Response:
        ticket = visit.query.text("ticket")
        grant = self._upstream.grant(ticket, visit.binding)
        return visit.page(
            "sso_allow.html",
            ticket=ticket,
            user=grant.user_id,
            where=clients.where(grant.redirect_url),
            form_targets=[clients.form_target(grant.redirect_url)],
        )

    async def _allow(self, visit: Visit) -> Response:
        return visit.redirect_away((await self._upstream.allow(visit.form.text("ticket"), visit.binding)).url)


def _found(response: Response) -> Response:
    """A redirect as the specification has it: 302."""
    response.status = 302
    return response


def _redirect_url(visit: Visit) -> str:
    """Raises 400 M_MISSING_PARAM, M_INVALID_PARAM."""
    url = visit.call.query("redirectUrl")
    if not url:
        raise missing_param("The query parameter redirectUrl is missing")
    return clients.checked_redirect(url)


def _query(redirect_url: str, action: str | None) -> dict[str, str]:
    return (
        {"redirectUrl": redirect_url} if action is None else {"redirectUrl": redirect_url, "action": action}
    )


def _action(visit: Visit) -> str | None:
    action = visit.call.query("action")
    if action is not None and action not in ACTIONS:
        raise invalid_param("action is neither login nor register")
    return action
