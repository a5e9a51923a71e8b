"""Every page of this server, added to the router in one place."""

from __future__ import annotations

from comity.api.router import Router
from comity.config import Config
from comity.users.oauth.endpoints import issuer
from comity.users.system import UserSystem
from comity.web.account import AccountPages
from comity.web.addresses import AddressPages
from comity.web.authorize import AuthorizePage
from comity.web.email_pages import EmailPages
from comity.web.fallback import Fallback
from comity.web.link import LinkPage
from comity.web.login_fallback import LoginFallback
from comity.web.oauth import OAuthEndpoints
from comity.web.pages import Pages
from comity.web.proofs import Proofs
from comity.web.recovery import RecoveryPage
from comity.web.register import RegisterPage
from comity.web.sign_in import SignIn
from comity.web.sign_ins import SignIns
from comity.web.sso import SingleSignOn
from comity.web.upstream import UpstreamPages


def add(router: Router, config: Config, users: UserSystem) -> Pages:
    """Add all of them."""
    pages, oauth = Pages(router, config, users.browsers), users.oauth
    registration_open = config.registration.enabled
    single_sign_on = SingleSignOn(users.upstream)
    single_sign_on.routes(pages)
    upstream = UpstreamPages(pages, users.upstream, users.login, users.browsers, single_sign_on)
    upstream.routes()
    SignIn(users.browsers, registration_open=registration_open, options=upstream.options).routes(pages)
    proofs = Proofs(pages, users.login, users.links, users.upstream)
    SignIns(users.upstream, users.links, users.browsers, proofs).routes(pages)
    Fallback(users.interactive, users.upstream, users.links).routes(pages)
    LoginFallback(config, users.login, users.upstream, pages).routes()
    RegisterPage(users.registration, users.browsers).routes(pages)
    RecoveryPage(config, users.password_resets).routes(pages)
    EmailPages(users.validations).routes(pages)
    AddressPages(users.third_party_ids, pages, sends_letters=users.validations.enabled).routes()
    AccountPages(
        users.browsers, users.profiles, users.devices, users.management, oauth, proofs
    ).routes(pages)  # fmt: skip
    OAuthEndpoints(config, oauth, pages).routes(router)
    if config.has_oauth:
        AuthorizePage(
            oauth.authorizations, pages, issuer(oauth.base_url), registration_open=registration_open
        ).routes()
        LinkPage(oauth.device_grant).routes(pages)
    return pages
