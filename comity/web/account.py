"""The account page: what users do with their own account (client-server §Account management).

Apps lead here by `action`. What is done is done by `comity.users`.
"""

from __future__ import annotations

from collections.abc import Mapping

from comity.ports import Response
from comity.protocol.errors import MatrixError, invalid_param, user_suspended
from comity.users.browsers import Browsers
from comity.users.devices import Devices
from comity.users.management import Management
from comity.users.oauth import endpoints
from comity.users.oauth.system import OAuthSystem
from comity.users.profile import Profiles
from comity.web.pages import ACCOUNT, ROOT, Pages, Visit
from comity.web.proofs import Proofs

DEVICES = f"{ACCOUNT}/devices"
DEVICE = f"{ACCOUNT}/device"
SIGN_OUT_DEVICE = f"{ACCOUNT}/device/sign-out"
SIGN_OUT_BROWSER = f"{ACCOUNT}/browser/sign-out"
PASSWORD = f"{ACCOUNT}/password"
IDENTITY = f"{ACCOUNT}/identity"
DEACTIVATE = f"{ACCOUNT}/deactivate"
#: Action -> the page for it, and whether that is about one device.
PAGES: Mapping[str, tuple[str, bool]] = {
    endpoints.PROFILE: (ACCOUNT, False),
    endpoints.DEVICES_LIST: (DEVICES, False),
    endpoints.DEVICE_VIEW: (DEVICE, True),
    endpoints.DEVICE_DELETE: (SIGN_OUT_DEVICE, True),
    endpoints.ACCOUNT_DEACTIVATE: (DEACTIVATE, False),
    endpoints.CROSS_SIGNING_RESET: (IDENTITY, False),
    # COMPAT: as clients called them that were written before v1.18 (MSC4191).
    "org.matrix.sessions_list": (DEVICES, False),
    "org.matrix.session_view": (DEVICE, True),
    "org.matrix.session_end": (SIGN_OUT_DEVICE, True),
}
#: What browsers and systems are known by, in an order in which none is taken for another.
BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("CriOS/", "Chrome"),
    ("Safari/", "Safari"),
)
SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)
#: What is told after a form was sent, by the `done` of the address.
DONE = {
    "name": "Your name has been changed.",
    "device": "The device has been signed out.",
    "browser": "The browser has been signed out.",
    "password": "Your password has been changed.",
}


class AccountPages:
    """The pages of one's own account."""

    def __init__(
        self,
        browsers: Browsers,
        profiles: Profiles,
        devices: Devices,
        management: Management,
        oauth: OAuthSystem,
        proofs: Proofs,
    ) -> None:
        self._proofs = proofs
        self._browsers = browsers
        self._profiles = profiles
        self._devices = devices
        self._management = management
        self._oauth = oauth

    def routes(self, pages: Pages) -> None:
        """Add the routes of this family."""
        for method, path, handler in (
            ("GET", ROOT, self._home),
            ("GET", ACCOUNT, self._profile),
            ("POST", ACCOUNT, self._change_name),
            ("GET", DEVICES, self._list),
            ("GET", DEVICE, self._device),
            ("GET", SIGN_OUT_DEVICE, self._ask_sign_out),
            ("POST", SIGN_OUT_DEVICE, self._sign_out),
            ("POST", SIGN_OUT_BROWSER, self._sign_out_browser),
            ("GET", PASSWORD, self._password),
            ("POST", PASSWORD, self._change_password),
            ("GET", IDENTITY, self._identity),
            ("POST", IDENTITY, self._approve_reset),
            ("GET", DEACTIVATE, self._deactivation),
            ("POST", DEACTIVATE, self._deactivate),
        ):
            pages.add(method, path, handler, signed_in=True)

    async def _home(self, visit: Visit) -> Response:
        return visit.redirect(ACCOUNT)

    # -- profile

    async def _profile(self, visit: Visit) -> Response:
        action, device_id = visit.query.text("action"), visit.query.text("device_id")
        if action in PAGES and PAGES[action] != (ACCOUNT, False):
            path, about_device = PAGES[action]
            if about_device and not device_id:
                path, about_device = DEVICES, False
            return visit.redirect(path, **({"device_id": device_id} if about_device else {}))
        return await self._profile_page(visit)

    async def _profile_page(self, visit: Visit, problem: str = "", status: int = 200) -> Response:
        profile = await self._profiles.local(visit.user.user_id) or {}
        name = visit.form.text("displayname") or profile.get("displayname", "")
        return visit.page(
            "account.html",
            status=status,
            here="profile",
            name=name if isinstance(name, str) else "",
            problem=problem,
            done=_done(visit),
        )

    async def _change_name(self, visit: Visit) -> Response:
        user_id, name = visit.user.user_id, visit.form.text("displayname").strip()
        try:
            if visit.user.suspended:
                raise user_suspended()
            if name:
                await self._profiles.put(user_id, "displayname", {"displayname": name})
            else:
                await self._profiles.delete(user_id, "displayname")
        except MatrixError as error:
            return await self._profile_page(visit, error.text, error.status)
        return visit.redirect(ACCOUNT, done="name")

    # -- devices

    async def _list(self, visit: Visit) -> Response:
        user_id = visit.user.user_id
        clients = await self._oauth.clients.of_user(user_id)
        devices = await self._devices.all(user_id)
        devices.sort(key=lambda device: -(_number(device["last_seen_ts"]) or 0))
        return visit.page(
            "devices.html",
            here="devices",
            devices=devices,
            clients=clients,
            browsers=await self._browsers.all(user_id),
            browser_name=browser_name,
            this_browser=visit.user.key,
            done=_done(visit),
        )

    async def _device(self, visit: Visit) -> Response:
        return await self._one_device(visit, "device.html")

    async def _ask_sign_out(self, visit: Visit) -> Response:
        return await self._one_device(visit, "device_sign_out.html")

    async def _one_device(self, visit: Visit, template: str) -> Response:
        user_id, device_id = visit.user.user_id, visit.query.required("device_id")
        return visit.page(
            template,
            here="devices",
            device=await self._devices.get(user_id, device_id),
            client=(await self._oauth.clients.of_user(user_id)).get(device_id),
        )

    async def _sign_out(self, visit: Visit) -> Response:
        await self._devices.log_out(visit.user.user_id, [visit.form.required("device_id")])
        return visit.redirect(DEVICES, done="device")

    async def _sign_out_browser(self, visit: Visit) -> Response:
        await self._browsers.sign_out_other(visit.user.user_id, visit.form.required("key"))
        return visit.redirect(DEVICES, done="browser")

    # -- password

    async def _password(self, visit: Visit) -> Response:
        return await self._password_page(visit, done=_done(visit))

    async def _password_page(
        self, visit: Visit, *, problem: str = "", done: str = "", status: int = 200
    ) -> Response:
        proof = await self._proofs.wanted(visit, PASSWORD)
        return visit.page(
            "password.html", status=status, here="password", problem=problem, done=done, proof=proof
        )

    async def _change_password(self, visit: Visit) -> Response:
        form, user_id = visit.form, visit.user.user_id
        log_out = bool(form.text("log_out"))
        try:
            if form.required("new") != form.text("again"):
                raise invalid_param("The two new passwords are not the same")
            account = await self._browsers.prove(visit.token, user_id, form.text("password"), visit.address)
            await self._management.replace_password(account, form.text("new"), log_out=log_out)
        except MatrixError as error:
            return await self._password_page(visit, problem=error.text, status=error.status)
        if log_out:
            # This browser was signed out with all the others.
            visit.signed_in(await self._browsers.open(user_id, visit.address, visit.user_agent))
        return visit.redirect(PASSWORD, done="password")

    # -- the keys for signing devices

    async def _identity(self, visit: Visit) -> Response:
        return await self._identity_page(visit)

    async def _identity_page(self, visit: Visit, *, problem: str = "", status: int = 200) -> Response:
        proof = await self._proofs.wanted(visit, IDENTITY)
        return visit.page(
            "identity.html", status=status, here="", problem=problem, approved=False, proof=proof
        )

    async def _approve_reset(self, visit: Visit) -> Response:
        """client-server §OAuth authentication: the user confirms the action here, then goes on in the app."""
        user = visit.user
        if not user.is_fresh:
            try:
                await self._browsers.prove(
                    visit.token, user.user_id, visit.form.text("password"), visit.address
                )
            except MatrixError as error:
                return await self._identity_page(visit, problem=error.text, status=error.status)
        self._oauth.identity_reset.approve(user.user_id)
        return visit.page("identity.html", here="", problem="", approved=True)

    # -- the end

    async def _deactivation(self, visit: Visit) -> Response:
        return await self._deactivation_page(visit)

    async def _deactivation_page(self, visit: Visit, *, problem: str = "", status: int = 200) -> Response:
        proof = await self._proofs.wanted(visit, DEACTIVATE)
        return visit.page("deactivate.html", status=status, here="deactivate", problem=problem, proof=proof)

    async def _deactivate(self, visit: Visit) -> Response:
        form, user_id = visit.form, visit.user.user_id
        try:
            account = await self._browsers.prove(visit.token, user_id, form.text("password"), visit.address)
            await self._management.end(account, erase=bool(form.text("erase")))
        except MatrixError as error:
            return await self._deactivation_page(visit, problem=error.text, status=error.status)
        visit.browser = None
        visit.signed_out()
        return visit.page("deactivated.html", gone=user_id)


def browser_name(user_agent: str) -> str:
    """What people call the browser that names itself so."""
    program = next((name for mark, name in BROWSERS if mark in user_agent), "")
    system = next((name for mark, name in SYSTEMS if mark in user_agent), "")
    return " on ".join(filter(None, (program, system))) or user_agent[:60] or "An unknown browser"


def _done(visit: Visit) -> str:
    return DONE.get(visit.query.text("done"), "")


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
