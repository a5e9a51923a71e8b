"""The token endpoint's grants, and revocation (client-server §Grant types, §Token revocation)."""

from __future__ import annotations

from collections.abc import Mapping

from comity.protocol.errors import MatrixError
from comity.store import oauth as stored
from comity.store import sessions as stored_sessions
from comity.store.database import Database, WriteTx
from comity.users.oauth.authorization import Authorizations
from comity.users.oauth.client_metadata import AUTHORIZATION_CODE, DEVICE_CODE, REFRESH_TOKEN
from comity.users.oauth.clients import Clients, RegisteredClient
from comity.users.oauth.device_grant import DeviceGrant
from comity.users.oauth.errors import OAuthError, invalid_client, invalid_grant, invalid_request
from comity.users.oauth.sessions import Granted
from comity.users.rate_limits import REFRESHES, RateLimits
from comity.users.refreshing import Refreshing
from comity.users.sessions import MAX_TOKEN_CHARACTERS, Sessions, hash_of

TOKEN_TYPES = ("access_token", "refresh_token")


class Tokens:
    """Gives tokens for grants, and takes them back."""

    def __init__(
        self,
        database: Database,
        clients: Clients,
        authorizations: Authorizations,
        devices: DeviceGrant,
        refreshing: Refreshing,
        sessions: Sessions,
        limits: RateLimits,
    ) -> None:
        self._database = database
        self._clients = clients
        self._authorizations = authorizations
        self._devices = devices
        self._refreshing = refreshing
        self._sessions = sessions
        self._limits = limits

    async def give(self, given: Mapping[str, str], address: str) -> Granted:
        """Answer a token request. Raises OAuthError, 429 M_LIMIT_EXCEEDED."""
        self._limits.check(REFRESHES, address)
        kind = given.get("grant_type", "")
        if not kind:
            raise invalid_request("The request lacks grant_type")
        if kind not in (AUTHORIZATION_CODE, REFRESH_TOKEN, DEVICE_CODE):
            raise OAuthError("unsupported_grant_type", "The grant_type is not one of this server's")
        client = await self._clients.find(given.get("client_id", ""))
        if client is None:
            raise invalid_client("The client is not registered here: register again")
        if kind not in client.metadata.grant_types:
            raise OAuthError("unauthorized_client", f"The client has not registered {kind}")
        if kind == AUTHORIZATION_CODE:
            return await self._authorizations.take(client, given)
        if kind == DEVICE_CODE:
            return await self._devices.take(client, given)
        return await self._refresh(client, given)

    async def _refresh(self, client: RegisteredClient, given: Mapping[str, str]) -> Granted:
        token = given.get("refresh_token", "")
        if not token:
            raise invalid_request("The request lacks refresh_token")
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise invalid_grant("The refresh token is not, or no longer, valid")
        token_hash = hash_of(token)

        def refresh(tx: WriteTx) -> Granted | OAuthError:
            found = stored_sessions.refresh(tx, token_hash)
            session = None if found is None else stored.session(tx, found.user_id, found.device_id)
            if session is None or session.client_id != client.client_id:
                return invalid_grant("The refresh token is not, or no longer, valid, or another client's")
            outcome = self._refreshing.refresh_in(tx, token_hash)
            if isinstance(outcome, MatrixError):
                return invalid_grant(outcome.text)
            return Granted(outcome, session.scope)

        outcome = await self._database.write(refresh)
        if isinstance(outcome, OAuthError):
            raise outcome
        return outcome

    async def revoke(self, given: Mapping[str, str], address: str) -> None:
        """Log out the device that a token of either kind is of; unknown tokens are passed over.

        Whoever has a token may end it, whatever client they name or none: it has leaked then.
        Raises OAuthError, 429 M_LIMIT_EXCEEDED.
        """
        self._limits.check(REFRESHES, address)
        token = given.get("token", "")
        if not token:
            raise invalid_request("The request lacks token")
        if given.get("token_type_hint", TOKEN_TYPES[0]) not in TOKEN_TYPES:
            raise OAuthError("unsupported_token_type", f"token_type_hint is none of {', '.join(TOKEN_TYPES)}")
        if len(token) > MAX_TOKEN_CHARACTERS:
            return
        token_hash = hash_of(token)

        def revoke(tx: WriteTx) -> None:
            owner = stored_sessions.token_owner(tx, token_hash) or stored_sessions.refresh(tx, token_hash)
            if owner is not None:
                self._sessions.close_in(tx, owner.user_id, [owner.device_id])

        await self._database.write(revoke)
