"""The authorization endpoint: a client sends its user here, who lets it in or not.

client-server §Authorisation code flow. What makes a request good is decided in `comity.users.oauth`.
"""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit

from comity.ports import Response
from comity.users.oauth.authorization import AuthorizationRequest, Authorizations, RefusedRequest
from comity.users.oauth.client_metadata import form_target
from comity.users.oauth.endpoints import AUTHORIZE
from comity.users.oauth.errors import OAuthError
from comity.web.forms import Form, parse_form
from comity.web.pages import Pages, Visit
from comity.web.register import REGISTER_PAGE

#: What a client may put into a request that means something; the rest is not carried along.
PARAMETERS = (
    "client_id",
    "response_type",
    "response_mode",
    "redirect_uri",
    "scope",
    "state",
    "code_challenge",
    "code_challenge_method",
)


class AuthorizePage:
    """The page where a user lets a client in."""

    def __init__(
        self, authorizations: Authorizations, pages: Pages, issuer: str, *, registration_open: bool
    ) -> None:
        self._authorizations = authorizations
        self._pages = pages
        self._issuer = issuer
        self._registration_open = registration_open

    def routes(self) -> None:
        """Add the routes of this family."""
        self._pages.add("GET", AUTHORIZE, self._show)
        self._pages.add("POST", AUTHORIZE, self._decide)

    async def _show(self, visit: Visit) -> Response:
        request = await self._read(visit, visit.query)
        if isinstance(request, Response):
            return request
        kept = _kept(visit.query)
        here = f"{AUTHORIZE}?{kept}"
        if request.wants_account and self._registration_open:
            return visit.redirect(REGISTER_PAGE, then=here)
        if visit.browser is None:
            return self._pages.to_sign_in(visit)
        redirect_uri = request.destination.redirect_uri
        return visit.page(
            "authorize.html",
            client=request.client.metadata,
            device_id=request.scope.device_id,
            # An app of the system's own has no host that would mean something to people.
            goes_to=urlsplit(redirect_uri).hostname if redirect_uri.startswith("https:") else "",
            request=kept,
            here=here,
            form_targets=[form_target(redirect_uri)],
        )

    async def _decide(self, visit: Visit) -> Response:
        given = parse_form(visit.form.text("request"))
        request = await self._read(visit, given)
        if isinstance(request, Response):
            return request
        if visit.browser is None:
            return visit.redirect(f"{AUTHORIZE}?{_kept(given)}")
        if visit.form.text("decision") != "allow":
            answer = {"error": "access_denied", "error_description": "The user has refused"}
        else:
            answer = {"code": await self._authorizations.grant(request, visit.browser.user_id)}
        return visit.redirect_away(request.destination.url(self._issuer, **answer))

    async def _read(self, visit: Visit, given: Form) -> AuthorizationRequest | Response:
        """The request, or the answer to one that is not good."""
        try:
            return await self._authorizations.read(given)
        except RefusedRequest as refused:
            answer = {"error": refused.code, "error_description": refused.text}
            return visit.redirect_away(refused.destination.url(self._issuer, **answer))
        except OAuthError as error:
            return visit.page("error.html", status=400, text=error.text)


def _kept(given: Form) -> str:
    """A request as it is carried along: without `prompt`, which has been followed once it comes back."""
    return urlencode({name: given[name] for name in PARAMETERS if name in given})
