"""Making an account on a page, on the same terms as in an app (client-server §Account registration)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.ports import Response
from comity.protocol.errors import MatrixError, invalid_param
from comity.users.browsers import Browsers
from comity.users.interactive import DUMMY, REGISTRATION_TOKEN, AuthenticationNeededError
from comity.users.registration import Registration
from comity.web.forms import Form
from comity.web.pages import ROOT, Pages, Visit, own_address

REGISTER_PAGE = f"{ROOT}/register"
TERMS = "m.login.terms"
#: The stages that this page has fields for.
SHOWN_STAGES = frozenset({DUMMY, REGISTRATION_TOKEN, TERMS})


class RegisterPage:
    """The page where people make an account."""

    def __init__(self, registration: Registration, browsers: Browsers) -> None:
        self._registration = registration
        self._browsers = browsers

    def routes(self, pages: Pages) -> None:
        """Add the routes of this family."""
        pages.add("GET", REGISTER_PAGE, self._show)
        pages.add("POST", REGISTER_PAGE, self._register)

    async def _show(self, visit: Visit) -> Response:
        asked = await self._asked({}, visit.address)
        return self._page(visit, own_address(visit.query.text("then")), asked)

    async def _register(self, visit: Visit) -> Response:
        form, then = visit.form, own_address(visit.form.text("then"))
        asked: Mapping[str, Any] = {}
        try:
            asked = await self._asked({}, visit.address)
            user_id = await self._make(form, visit.address)
        except MatrixError as error:
            if error.status == 403 and not asked:
                raise
            return self._page(visit, then, asked, form=form, problem=error.text, status=error.status)
        await self._browsers.sign_out(visit.token)
        visit.signed_in(await self._browsers.open(user_id, visit.address, visit.user_agent))
        return visit.redirect(then)

    async def _make(self, form: Form, address: str) -> str:
        """Make the account: the user id. Raises MatrixError."""
        if form.text("password") != form.text("again"):
            raise invalid_param("The two passwords are not the same")
        body: dict[str, Any] = {
            "username": form.required("username").strip(),
            "password": form.required("password"),
            # The browser signs in to these pages, not to a device.
            "inhibit_login": True,
        }
        asked = await self._asked(body, address)
        stages = _stages(asked)
        if stages is None:
            raise invalid_param("An account is not made on this page: use an app")
        for stage in stages:
            body["auth"] = {"type": stage, "session": asked["session"], **_proof(stage, form)}
            try:
                return (await self._registration.register(body, "user", address)).user_id
            except AuthenticationNeededError as needed:
                if "errcode" in needed.body():
                    raise
        raise invalid_param("Something was missing: try again")

    async def _asked(self, body: Mapping[str, Any], address: str) -> Mapping[str, Any]:
        """What is asked of who registers: `flows`, `params` and the session. Raises MatrixError."""
        try:
            await self._registration.register(body, "user", address)
        except AuthenticationNeededError as needed:
            return needed.body()
        raise RuntimeError("An account was made without anything asked")

    def _page(
        self,
        visit: Visit,
        then: str,
        asked: Mapping[str, Any],
        *,
        form: Form | None = None,
        problem: str = "",
        status: int = 200,
    ) -> Response:
        stages = _stages(asked)
        return visit.page(
            "register.html",
            status=status,
            then=then,
            possible=stages is not None,
            wants_token=REGISTRATION_TOKEN in (stages or ()),
            policies=_policies(asked) if TERMS in (stages or ()) else [],
            username=form.text("username") if form else "",
            token=form.text("token") if form else visit.query.text("token"),
            problem=problem,
        )


def _stages(asked: Mapping[str, Any]) -> list[str] | None:
    """The stages of the first flow that this page has fields for."""
    for flow in asked.get("flows", ()):
        if SHOWN_STAGES.issuperset(flow["stages"]):
            stages: list[str] = flow["stages"]
            return stages
    return None


def _proof(stage: str, form: Form) -> dict[str, str]:
    if stage == REGISTRATION_TOKEN:
        return {"token": form.text("token").strip()}
    if stage == TERMS and not form.text("terms"):
        raise invalid_param("An account is for who accepts the terms")
    return {}


def _policies(asked: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, URL) of each policy to accept (client-server §Terms of service at registration)."""
    policies = asked.get("params", {}).get(TERMS, {}).get("policies", {})
    found = []
    for policy in policies.values():
        language = "en" if "en" in policy else next((name for name in policy if name != "version"), None)
        if language is not None:
            found.append((policy[language]["name"], policy[language]["url"]))
    return found
