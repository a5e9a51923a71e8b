"""Logging in in a browser, for apps that do not know how (client-server §Login Fallback).

The page does the whole login and then hands the answer of `POST /login` to the app that shows the page.
"""

from __future__ import annotations

import orjson

from comity.api.client.login import login_answer
from comity.config import Config
from comity.ports import Response
from comity.protocol.errors import MatrixError
from comity.users.interactive import PASSWORD
from comity.users.login import TOKEN, Login
from comity.users.upstream.signing_in import LOGIN_FALLBACK, UpstreamSignIn
from comity.web.pages import Pages, Visit

#: Whether the app can refresh its tokens.
REFRESHING = "refresh_token"
#: What an app may ask for in the query, to be said when logging in: nothing that proves anything.
FORWARDED = ("device_id", "initial_device_display_name", REFRESHING)
REDIRECT = "/_matrix/client/v3/login/sso/redirect"


class LoginFallback:
    """`/_matrix/static/client/login/`."""

    def __init__(self, config: Config, login: Login, upstream: UpstreamSignIn, pages: Pages) -> None:
        self._pages = pages
        self._config = config
        self._login = login
        self._upstream = upstream

    def routes(self) -> None:
        """Add the routes of this family."""
        self._pages.add("GET", LOGIN_FALLBACK, self._show)
        self._pages.add("POST", LOGIN_FALLBACK, self._log_in)

    async def _show(self, visit: Visit) -> Response:
        forwarded = {name: visit.call.query(name) or "" for name in FORWARDED}
        return self._page(visit, forwarded, token=visit.call.query("loginToken") or "")

    def _page(
        self,
        visit: Visit,
        forwarded: dict[str, str],
        *,
        token: str = "",
        name: str = "",
        problem: str = "",
        status: int = 200,
    ) -> Response:
        told = {key: value for key, value in forwarded.items() if value}
        return visit.page(
            "login_fallback.html",
            status=status,
            page=LOGIN_FALLBACK,
            forwarded=told,
            token=token,
            name=name,
            problem=problem,
            providers=self._upstream.providers(),
            redirect=REDIRECT,
            here=self._pages.url(LOGIN_FALLBACK, **told),
        )

    async def _log_in(self, visit: Visit) -> Response:
        form = visit.form
        forwarded = {name: form.text(name) for name in FORWARDED}
        body: dict[str, object] = {name: value for name, value in forwarded.items() if value}
        if REFRESHING in body:
            body[REFRESHING] = body[REFRESHING] == "true"
        if form.text("token"):
            body |= {"type": TOKEN, "token": form.text("token")}
        else:
            identifier = {"type": "m.id.user", "user": form.text("name").strip()}
            body |= {"type": PASSWORD, "identifier": identifier, "password": form.text("password")}
        try:
            opened = await self._login.log_in(body, visit.address)
        except MatrixError as error:
            if error.status >= 500:
                raise
            return self._page(
                visit, forwarded, name=form.text("name"), problem=error.text, status=error.status
            )
        answer = orjson.dumps(login_answer(self._config, opened)).decode()
        return visit.page("login_done.html", with_scripts=True, answer=answer)
