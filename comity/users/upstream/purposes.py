"""What somebody signs in through another provider for."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ForClient:
    """To let an app in (client-server §Client login via SSO): it is given a login token at `redirect_url`."""

    redirect_url: str


@dataclass(frozen=True, slots=True)
class ForStage:
    """To complete `m.login.sso` in a session of user-interactive authentication."""

    session_id: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ForLink:
    """To link the provider to the account of who is signed in to the pages."""

    user_id: str


@dataclass(frozen=True, slots=True)
class ForBrowser:
    """To sign in to the pages, and go on at `then`, an address on this server."""

    then: str


Purpose = ForClient | ForStage | ForLink | ForBrowser
