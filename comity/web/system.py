"""Every page of this server, added to the router in one place."""

from __future__ import annotations

from comity.api.router import Router
from comity.config import Config
from comity.users.system import UserSystem
from comity.web.pages import Pages
from comity.web.sign_in import SignIn


def add(router: Router, config: Config, users: UserSystem) -> Pages:
    """Add all of them."""
    pages = Pages(router, config, users.browsers)
    SignIn(users.browsers).routes(pages)
    return pages
