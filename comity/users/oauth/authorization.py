"""The authorization code grant: requests of clients, and codes (client-server §Authorisation code flow).

Owns what makes a request good and where its answer goes; that a user consents is the page's affair.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from comity.ports import Clock, Entropy
from comity.store import oauth as stored
from comity.store.database import Database, WriteTx
from comity.users.oauth import scopes
from comity.users.oauth.client_metadata import AUTHORIZATION_CODE
from comity.users.oauth.clients import Clients, RegisteredClient
from comity.users.oauth.errors import OAuthError, invalid_client, invalid_grant, invalid_request
from comity.users.oauth.scopes import Scope
from comity.users.oauth.sessions import Granted, GrantedSessions
from comity.users.sessions import MAX_TOKEN_CHARACTERS, Sessions, hash_of

#: 43 characters of 62: 256 bits.
CODE_LENGTH = 43
#: A client takes its code at once; RFC 6749 §4.1.2 recommends ten minutes at most.
CODE_LIFETIME_MS = 60_000
#: How long a code that is over is known, so that who replays it ends what it gave.
KEEP_CODES_MS = 24 * 3_600_000
#: What a client puts into `state` comes back in a redirect: no more than fits.
MAX_STATE_CHARACTERS = 1_000
RESPONSE_MODES = ("query", "fragment")
CREATE = "create"
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
#: RFC 7636 §4.1.
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


class RefusedRequest(OAuthError):
    """A request whose client and redirect URI are good: it is told the error there."""

    def __init__(self, code: str, text: str, request: Destination) -> None:
        super().__init__(code, text)
        self.destination = request


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the answer to an authorization request goes."""

    redirect_uri: str
    response_mode: str
    state: str

    def url(self, issuer: str, **answer: str) -> str:
        """The URL of an answer; `issuer` tells a client of several servers who answers (RFC 9207)."""
        if self.state:
            answer["state"] = self.state
        text = urlencode({**answer, "iss": issuer})
        if self.response_mode == "fragment":
            return f"{self.redirect_uri}#{text}"
        return f"{self.redirect_uri}{'&' if '?' in self.redirect_uri else '?'}{text}"


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A good request, for a user to decide on."""

    client: RegisteredClient
    destination: Destination
    scope: Scope
    code_challenge: str
    #: Whether the user is to be shown how to make an account.
    wants_account: bool


class Authorizations:
    """Checks requests, gives codes for them, and takes codes for tokens."""

    def __init__(
        self,
        database: Database,
        clients: Clients,
        granted: GrantedSessions,
        sessions: Sessions,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._database = database
        self._clients = clients
        self._granted = granted
        self._sessions = sessions
        self._clock = clock
        self._entropy = entropy

    async def read(self, given: Mapping[str, str]) -> AuthorizationRequest:
        """The request that a browser brings.

        Raises RefusedRequest, which is told to the client; any other OAuthError is for the user's eyes
        alone, for nobody knows where it would lead.
        """
        client = await self._clients.find(given.get("client_id", ""))
        if client is None:
            raise invalid_client("The app is not known here. Go back to it and sign in anew.")
        redirect_uri = given.get("redirect_uri", "")
        if not client.metadata.has_redirect_uri(redirect_uri):
            raise invalid_request("The app wants to send you to an address that it has not registered.")
        mode = given.get("response_mode") or "query"
        state = given.get("state", "")
        destination = Destination(redirect_uri, mode if mode in RESPONSE_MODES else "query", state)
        if len(state) > MAX_STATE_CHARACTERS:
            raise invalid_request(f"The app's state has more than {MAX_STATE_CHARACTERS} characters.")

        def refused(code: str, text: str) -> RefusedRequest:
            return RefusedRequest(code, text, destination)

        if AUTHORIZATION_CODE not in client.metadata.grant_types:
            raise refused("unauthorized_client", f"The client has not registered {AUTHORIZATION_CODE}")
        if given.get("response_type") != "code":
            raise refused("unsupported_response_type", "The response_type must be code")
        if mode not in RESPONSE_MODES:
            raise refused("invalid_request", "The response_mode must be query or fragment")
        if given.get("code_challenge_method") != "S256":
            raise refused("invalid_request", "The code_challenge_method must be S256")
        if not _CHALLENGE.fullmatch(given.get("code_challenge", "")):
            raise refused("invalid_request", "The code_challenge is missing, or is no SHA-256 in base64url")
        try:
            scope = scopes.parse(given.get("scope", ""))
        except OAuthError as error:
            raise refused(error.code, error.text) from None
        prompts = given.get("prompt", "").split()
        if "none" in prompts:
            raise refused("interaction_required", "Nobody is logged in here without being asked")
        return AuthorizationRequest(client, destination, scope, given["code_challenge"], CREATE in prompts)

    async def grant(self, request: AuthorizationRequest, user_id: str) -> str:
        """The user consents: a code for the client."""
        code, now = self._entropy.token(CODE_LENGTH), self._clock.now_ms()
        kept = stored.Code(
            client_id=request.client.client_id,
            user_id=user_id,
            device_id=request.scope.device_id,
            scope=request.scope.text,
            redirect_uri=request.destination.redirect_uri,
            code_challenge=request.code_challenge,
            expires_at=now + CODE_LIFETIME_MS,
            used=False,
        )
        await self._database.write(lambda tx: stored.put_code(tx, hash_of(code), kept, now - KEEP_CODES_MS))
        return code

    async def take(self, client: RegisteredClient, given: Mapping[str, str]) -> Granted:
        """Tokens for a code. Raises OAuthError.

        A code is good once: who shows it again ends the session that it gave. One that is shown with
        the wrong verifier was stolen, and is good no more.
        """
        code, verifier = given.get("code", ""), given.get("code_verifier", "")
        if not code or not verifier:
            raise invalid_request("The request lacks code or code_verifier")
        if len(code) > MAX_TOKEN_CHARACTERS:
            raise _bad_code()
        code_hash, redirect_uri = hash_of(code), given.get("redirect_uri", "")
        # An error that is raised undoes its transaction; what must end must end.
        outcome = await self._database.write(
            lambda tx: self._take(tx, client, code_hash, redirect_uri, verifier)
        )
        if isinstance(outcome, OAuthError):
            raise outcome
        return outcome

    def _take(
        self, tx: WriteTx, client: RegisteredClient, code_hash: bytes, redirect_uri: str, verifier: str
    ) -> Granted | OAuthError:
        found = stored.code(tx, code_hash)
        if found is None or found.client_id != client.client_id:
            return _bad_code()
        if not stored.use_code(tx, code_hash):
            session = stored.session(tx, found.user_id, found.device_id)
            if session is not None and session.code_hash == code_hash:
                self._sessions.log_out_softly_in(tx, found.user_id, found.device_id)
            return _bad_code()
        if found.expires_at <= self._clock.now_ms():
            return _bad_code()
        if found.redirect_uri != redirect_uri:
            return invalid_grant("The redirect_uri is not that of the authorization request")
        if not _VERIFIER.fullmatch(verifier) or not hmac.compare_digest(
            challenge_of(verifier), found.code_challenge
        ):
            return invalid_grant("The code_verifier is not that of the authorization request")
        try:
            return self._granted.open_in(tx, client, found.user_id, found.device_id, found.scope, code_hash)
        except OAuthError as error:
            return error


def challenge_of(verifier: str) -> str:
    """The S256 challenge of a verifier (RFC 7636 §4.2)."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _bad_code() -> OAuthError:
    return invalid_grant("The code is unknown, used, over, or another client's")
