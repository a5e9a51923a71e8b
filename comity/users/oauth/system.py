"""The parts of OAuth 2.0, built in the order in which they need each other."""

from __future__ import annotations

from comity.ports import Clock, Entropy
from comity.store.database import Database
from comity.users.interactive import Interactive
from comity.users.oauth.authorization import Authorizations
from comity.users.oauth.clients import Clients
from comity.users.oauth.device_grant import DeviceGrant
from comity.users.oauth.endpoints import reset_url
from comity.users.oauth.identity_reset import IdentityReset
from comity.users.oauth.sessions import GrantedSessions
from comity.users.oauth.tokens import Tokens
from comity.users.rate_limits import RateLimits
from comity.users.refreshing import Refreshing
from comity.users.sessions import Sessions


class OAuthSystem:
    """Everything about OAuth 2.0; others take from it the parts that they name."""

    def __init__(
        self,
        database: Database,
        sessions: Sessions,
        refreshing: Refreshing,
        interactive: Interactive,
        limits: RateLimits,
        clock: Clock,
        entropy: Entropy,
        base_url: str,
    ) -> None:
        """`base_url` is where browsers reach this server."""
        granted = GrantedSessions(sessions, clock)
        self.base_url = base_url
        self.clients = Clients(database, limits, clock, entropy)
        self.authorizations = Authorizations(database, self.clients, granted, sessions, clock, entropy)
        self.device_grant = DeviceGrant(database, self.clients, granted, limits, clock, entropy)
        self.tokens = Tokens(
            database, self.clients, self.authorizations, self.device_grant, refreshing, sessions, limits
        )
        self.identity_reset = IdentityReset(interactive, clock, reset_url(base_url))
