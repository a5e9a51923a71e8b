"""Making an account on a page, on the same terms as in an app (client-server §Account registration).

Where an e-mail address must be confirmed, that is the last stage: the password is chosen after it, on a
second page, so that it is never carried through one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comity.ports import Response
from comity.protocol.errors import MatrixError, invalid_param
from comity.users.browsers import Browsers
from comity.users.interactive import (
    DUMMY,
    EMAIL,
    REGISTRATION_TOKEN,
    TERMS,
    AuthenticationNeededError,
)
from comity.users.registration import Registration
from comity.web.forms import Form
from comity.web.pages import ROOT, Pages, Visit, own_address

REGISTER_PAGE = f"{ROOT}/register"
CONFIRMED = f"{ROOT}/register/confirmed"
#: The stages that these pages have fields for.
SHOWN_STAGES = frozenset({DUMMY, REGISTRATION_TOKEN, TERMS, EMAIL})
#: What is carried from the first page to the second.
CARRIED = ("username", "email", "sid", "secret", "session", "then")


class RegisterPage:
    """The pages where people make an account."""

    def __init__(self, registration: Registration, browsers: Browsers) -> None:
        self._registration = registration
        self._browsers = browsers

    def routes(self, pages: Pages) -> None:
        """Add the routes of this family."""
        self._pages = pages
        pages.add("GET", REGISTER_PAGE, self._show)
        pages.add("POST", REGISTER_PAGE, self._register)
        pages.add("POST", CONFIRMED, self._confirmed)

    async def _show(self, visit: Visit) -> Response:
        asked = await self._asked({}, visit.address)
        return self._page(visit, own_address(visit.query.text("then")), asked)

    async def _register(self, visit: Visit) -> Response:
        form, then = visit.form, own_address(visit.form.text("then"))
        asked: Mapping[str, Any] = {}
        try:
            asked = await self._asked({}, visit.address)
            stages = _stages(asked)
            if stages is None:
                raise invalid_param("An account is not made on this page: use an app")
            if EMAIL in stages:
                return await self._send_letter(visit, stages, then)
            user_id = await self._complete(_body(form), stages, form, visit.address)
        except MatrixError as error:
            if error.status == 403 and not asked:
                raise
            return self._page(visit, then, asked, form=form, problem=error.text, status=error.status)
        return await self._made(visit, user_id, then)

    async def _send_letter(self, visit: Visit, stages: Sequence[str], then: str) -> Response:
        """Complete what comes before the e-mail address, and have a letter sent to that."""
        form, secret = visit.form, self._pages.new_token()
        # No account is made yet, and the password of this request is not remembered.
        body = {**_identity(form), "password": self._pages.new_token()}
        asked = await self._asked(body, visit.address)
        for stage in stages:
            if stage != EMAIL:
                await self._stage(body, stage, asked["session"], _proof(stage, form), visit.address)
        email = form.required("email").strip()
        letter = {"client_secret": secret, "email": email, "send_attempt": 1}
        sent = await self._registration.request_token(letter, visit.address)
        carried = {
            "username": body["username"],
            "email": email,
            "sid": str(sent["sid"]),
            "secret": secret,
            "session": asked["session"],
            "then": then,
        }
        return visit.page("register_by_mail.html", carried=carried, problem="")

    async def _confirmed(self, visit: Visit) -> Response:
        """The address has been confirmed, and a password was chosen."""
        form, then = visit.form, own_address(visit.form.text("then"))
        proof = {"sid": form.text("sid"), "client_secret": form.text("secret")}
        try:
            user_id = await self._stage(
                _body(form), EMAIL, form.text("session"), {"threepid_creds": proof}, visit.address
            )
            if user_id is None:
                raise invalid_param("This took too long: begin again")
        except MatrixError as error:
            carried = {name: form.text(name) for name in CARRIED}
            return visit.page(
                "register_by_mail.html", status=error.status, carried=carried, problem=error.text
            )
        return await self._made(visit, user_id, then)

    async def _made(self, visit: Visit, user_id: str, then: str) -> Response:
        await self._browsers.sign_out(visit.token)
        visit.signed_in(await self._browsers.open(user_id, visit.address, visit.user_agent))
        return visit.redirect(then)

    # -- stages

    async def _complete(self, body: dict[str, Any], stages: Sequence[str], form: Form, address: str) -> str:
        """Complete every stage: the new user id. Raises MatrixError."""
        asked = await self._asked(body, address)
        for stage in stages:
            user_id = await self._stage(body, stage, asked["session"], _proof(stage, form), address)
            if user_id is not None:
                return user_id
        raise invalid_param("Something was missing: try again")

    async def _stage(
        self, body: Mapping[str, Any], stage: str, session: str, proof: Mapping[str, Any], address: str
    ) -> str | None:
        """Complete one stage; the user id if it was the last. Raises MatrixError if it proves nothing."""
        auth = {"type": stage, "session": session, **proof}
        try:
            return (await self._registration.register({**body, "auth": auth}, "user", address)).user_id
        except AuthenticationNeededError as needed:
            if "errcode" in needed.body():
                raise
            return None

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
            wants_email=EMAIL in (stages or ()),
            policies=_policies(asked) if TERMS in (stages or ()) else [],
            username=form.text("username") if form else "",
            email=form.text("email") if form else "",
            token=form.text("token") if form else visit.query.text("token"),
            problem=problem,
        )


def _identity(form: Form) -> dict[str, Any]:
    """The body of a registration without its password: the browser signs in to these pages, to no device."""
    return {"username": form.required("username").strip(), "inhibit_login": True}


def _body(form: Form) -> dict[str, Any]:
    """The body of a registration. Raises 400."""
    if form.text("password") != form.text("again"):
        raise invalid_param("The two passwords are not the same")
    return {**_identity(form), "password": form.required("password")}


def _stages(asked: Mapping[str, Any]) -> list[str] | None:
    """The stages of the first flow that these pages have fields for."""
    for flow in asked.get("flows", ()):
        if SHOWN_STAGES.issuperset(flow["stages"]):
            stages: list[str] = flow["stages"]
            return stages
    return None


def _proof(stage: str, form: Form) -> dict[str, Any]:
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
