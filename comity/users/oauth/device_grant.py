"""The device authorization grant (RFC 8628; client-server §Device authorisation flow).

A client without a browser shows a short code; its user enters it on a page, and the client asks
again and again what became of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from comity.ports import Clock, Entropy
from comity.protocol.errors import MatrixError
from comity.store import oauth as stored
from comity.store.database import Database, WriteTx
from comity.store.oauth import DeviceRequest
from comity.users.oauth import scopes
from comity.users.oauth.client_metadata import DEVICE_CODE
from comity.users.oauth.clients import Clients, RegisteredClient
from comity.users.oauth.errors import OAuthError, invalid_grant, invalid_request
from comity.users.oauth.sessions import Granted, GrantedSessions
from comity.users.rate_limits import DEVICE_CODES, RateLimits
from comity.users.sessions import MAX_TOKEN_CHARACTERS, hash_of

#: 43 characters of 62: 256 bits.
DEVICE_CODE_LENGTH = 43
#: RFC 8628 §6.1: letters that are neither vowels (no words) nor digits (no doubt): 20^8 codes.
USER_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
USER_CODE_LENGTH = 8
#: Somebody fetches their phone and signs in there.
LIFETIME_MS = 15 * 60_000
#: How long a request that is over is known as over.
KEEP_MS = 10 * 60_000
#: How long a client waits before it asks again (RFC 8628 §3.5), and how much longer each time it does not.
INTERVAL_MS, SLOWER_MS = 5_000, 5_000
#: A client that asks too often waits no longer than that.
LONGEST_INTERVAL_MS = 60_000
#: A poll may arrive a little early: networks differ from one to the next.
EARLY_MS = 1_000
#: Requests kept at once: more people than log in within a quarter of an hour.
MAX_REQUESTS = 10_000
#: Two in a row that are taken is one in 10^12.
ATTEMPTS_AT_A_FREE_CODE = 5


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that waits for its user."""

    device_code: str
    user_code: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request as its user is shown it."""

    client: RegisteredClient
    user_code: str
    device_id: str
    #: From where it was made.
    address: str


class DeviceGrant:
    """Requests of devices, from their making to their tokens."""

    def __init__(
        self,
        database: Database,
        clients: Clients,
        granted: GrantedSessions,
        limits: RateLimits,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._database = database
        self._clients = clients
        self._granted = granted
        self._limits = limits
        self._clock = clock
        self._entropy = entropy

    async def begin(self, client: RegisteredClient, scope_text: str, address: str) -> Begun:
        """A new request. Raises OAuthError, 429 M_LIMIT_EXCEEDED."""
        if DEVICE_CODE not in client.metadata.grant_types:
            raise OAuthError("unauthorized_client", f"The client has not registered {DEVICE_CODE}")
        scope = scopes.parse(scope_text)
        self._limits.check(DEVICE_CODES, address)
        device_code = self._entropy.token(DEVICE_CODE_LENGTH)
        codes = [self._new_user_code() for _ in range(ATTEMPTS_AT_A_FREE_CODE)]

        def store(tx: WriteTx) -> str | None:
            now = self._clock.now_ms()
            for code in codes:
                request = DeviceRequest(
                    device_code_hash=hash_of(device_code), user_code=code, client_id=client.client_id,
                    device_id=scope.device_id, scope=scope.text, address=address, state=stored.PENDING,
                    user_id=None, created_at=now, expires_at=now + LIFETIME_MS, last_polled_at=0,
                    interval_ms=INTERVAL_MS,
                )  # fmt: skip
                if stored.put_device_request(tx, request, now - KEEP_MS):
                    stored.touch_client(tx, client.client_id, now)
                    return code
            return None

        if await self._database.look_up(stored.count_device_requests) >= MAX_REQUESTS:
            # Some may be over: the next one that is stored clears them away.
            horizon = self._clock.now_ms()
            await self._database.write(lambda tx: stored.forget_device_requests(tx, horizon))
            if await self._database.look_up(stored.count_device_requests) >= MAX_REQUESTS:
                raise OAuthError("temporarily_unavailable", "Too many devices wait for their users", 503)
        user_code = await self._database.write(store)
        if user_code is None:
            raise OAuthError("temporarily_unavailable", "No code is free: try again", 503)
        return Begun(device_code, shown_code(user_code))

    def _new_user_code(self) -> str:
        letters = ""
        while len(letters) < USER_CODE_LENGTH:
            for byte in self._entropy.bytes(USER_CODE_LENGTH):
                # Bytes of a last, incomplete round would make some letters likelier.
                if byte < 256 - 256 % len(USER_CODE_LETTERS):
                    letters += USER_CODE_LETTERS[byte % len(USER_CODE_LETTERS)]
        return letters[:USER_CODE_LENGTH]

    # -- the client asks

    async def take(self, client: RegisteredClient, given: Mapping[str, str]) -> Granted:
        """Tokens, once the user has consented. Raises OAuthError (RFC 8628 §3.5)."""
        device_code = given.get("device_code", "")
        if not device_code:
            raise invalid_request("The request lacks device_code")
        if len(device_code) > MAX_TOKEN_CHARACTERS:
            raise _unknown()
        code_hash = hash_of(device_code)
        outcome = await self._database.write(lambda tx: self._take(tx, client, code_hash))
        if isinstance(outcome, OAuthError):
            raise outcome
        return outcome

    def _take(self, tx: WriteTx, client: RegisteredClient, code_hash: bytes) -> Granted | OAuthError:
        found = stored.device_request(tx, code_hash)
        if found is None or found.client_id != client.client_id:
            return _unknown()
        now = self._clock.now_ms()
        if found.expires_at <= now:
            return OAuthError("expired_token", "Nobody has consented in time: begin again")
        if found.state == stored.DENIED:
            stored.delete_device_request(tx, code_hash)
            return OAuthError("access_denied", "The user has refused")
        if found.state == stored.PENDING:
            too_early = now - found.last_polled_at < found.interval_ms - EARLY_MS
            interval = min(found.interval_ms + SLOWER_MS, LONGEST_INTERVAL_MS)
            stored.note_poll(tx, code_hash, now, interval if too_early else found.interval_ms)
            if too_early:
                return OAuthError("slow_down", "Ask less often")
            return OAuthError("authorization_pending", "The user has not decided yet")
        assert found.user_id is not None
        stored.delete_device_request(tx, code_hash)
        try:
            return self._granted.open_in(tx, client, found.user_id, found.device_id, found.scope)
        except OAuthError as error:
            return error

    # -- the user decides

    async def waiting(self, entered: str, user_id: str, address: str) -> Waiting:
        """The request whose code a user has entered; whoever guesses waits longer each time.

        Raises 404 M_NOT_FOUND, 429 M_LIMIT_EXCEEDED.
        """
        whose = [(user_id, address), ("", address)]
        self._limits.check_attempt(*whose)
        code, now = normal_code(entered), self._clock.now_ms()
        found = None
        if code is not None:
            found = await self._database.look_up(lambda tx: stored.device_request_by_user_code(tx, code, now))
        client = None if found is None else await self._clients.find(found.client_id)
        self._limits.note_attempt(*whose, failed=client is None)
        if found is None or client is None:
            raise MatrixError(404, "M_NOT_FOUND", "There is no such code, or it is over. Look at it again.")
        return Waiting(client, shown_code(found.user_code), found.device_id, found.address)

    async def decide(self, entered: str, user_id: str, address: str, *, approves: bool) -> None:
        """A user consents to a request, or not.

        Raises 404 M_NOT_FOUND if it waits no more, 429 M_LIMIT_EXCEEDED.
        """
        await self.waiting(entered, user_id, address)
        code = normal_code(entered) or ""

        def store(tx: WriteTx) -> bool:
            found = stored.device_request_by_user_code(tx, code, self._clock.now_ms())
            state = stored.APPROVED if approves else stored.DENIED
            return found is not None and stored.decide(tx, found.device_code_hash, state, user_id)

        if not await self._database.write(store):
            raise MatrixError(404, "M_NOT_FOUND", "The code is over. Begin again on the other device.")


def normal_code(entered: str) -> str | None:
    """A code as it is kept, however somebody wrote it; None if it is none."""
    letters = "".join(letter for letter in entered[:64].upper() if letter.isalnum())
    if len(letters) != USER_CODE_LENGTH or not set(letters) <= set(USER_CODE_LETTERS):
        return None
    return letters


def shown_code(code: str) -> str:
    """A code as people read it."""
    return f"{code[:4]}-{code[4:]}"


def _unknown() -> OAuthError:
    return invalid_grant("The device_code is unknown, used, or another client's")
