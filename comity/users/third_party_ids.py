"""Third-party identifiers of accounts: the addresses by which their users are reached and may come back.

client-server §Adding Account Administrative Contact Information. Owns whose an address is, and what
identity servers are told of it in the user's name. How an address is proven is `comity.users.validation`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from comity.federation.errors import FederationError
from comity.federation.identity_servers import IdentityServers, supports_unbinding, told
from comity.ports import Clock
from comity.protocol.errors import MatrixError, bad_json, invalid_param, missing_param
from comity.protocol.third_party_ids import canonical, is_secret
from comity.store import third_party
from comity.store.database import Database, WriteTx
from comity.store.third_party import Binding, ThirdPartyId
from comity.store.validation import ValidationSession
from comity.users.login import PasswordProof
from comity.users.rate_limits import IDENTITY_SERVERS, RateLimits
from comity.users.validation import ADD, NotProvenYetError, Validations, auth_failed, in_use

_log = logging.getLogger(__name__)
#: Addresses of one account, and what identity servers know of one user, as far as it is remembered.
MAX_ADDRESSES, MAX_BINDINGS = 20, 50
#: Characters of an identity server's name and of an address as a client writes it.
MAX_TEXT = 255
#: Identity servers asked at once when an account ends, and the seconds for all of it: its user waits.
MAX_AT_ONCE, UNBIND_SECONDS = 10, 30.0

#: The values of `id_server_unbind_result`.
SUCCESS, NO_SUPPORT = "success", "no-support"


def add_in(tx: WriteTx, user_id: str, session: ValidationSession, now_ms: int) -> None:
    """Make a proven address the user's, in a transaction of the caller's.

    Raises 400 M_THREEPID_IN_USE, M_LIMIT_EXCEEDED where they have as many as one can.
    """
    before = third_party.of_user(tx, user_id)
    is_new = (session.medium, session.address) not in [(each.medium, each.address) for each in before]
    if is_new and len(before) >= MAX_ADDRESSES:
        raise MatrixError(400, "M_LIMIT_EXCEEDED", f"An account has at most {MAX_ADDRESSES} addresses")
    validated_at = session.validated_at if session.validated_at is not None else now_ms
    new = ThirdPartyId(session.medium, session.address, session.written, validated_at, now_ms)
    if not third_party.add(tx, user_id, new):
        raise in_use()


class ThirdPartyIds:
    """Adds addresses to accounts and takes them away, and has them bound and unbound."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        limits: RateLimits,
        validations: Validations,
        proof: PasswordProof,
        identity: IdentityServers,
    ) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self._validations = validations
        self._proof = proof
        self._identity = identity

    async def all(self, user_id: str) -> list[dict[str, object]]:
        """`GET /account/3pid`: the `threepids`."""
        found = await self._database.look_up(lambda tx: third_party.of_user(tx, user_id))
        return [
            {
                "medium": each.medium,
                "address": each.address,
                "validated_at": each.validated_at,
                "added_at": each.added_at,
            }
            for each in found
        ]

    # -- the account's own

    async def request_token(
        self, body: Mapping[str, Any], address: str, user_id: str | None
    ) -> dict[str, object]:
        """`POST /account/3pid/email/requestToken`. Raises as `Validations.request`."""
        return await self._validations.request(ADD, body, address, user_id)

    async def add(
        self, user_id: str, body: Mapping[str, Any], credentials: object, *, operation: str = "add address"
    ) -> None:
        """`POST /account/3pid/add`: an address that was proven, for who gives their password again.

        `credentials` hold sid and client_secret. Raises 400 M_MISSING_PARAM, M_BAD_JSON,
        M_THREEPID_AUTH_FAILED, M_THREEPID_IN_USE; 401 with flows.
        """
        session = await self._proven(user_id, credentials)
        proven = await self._proof.require(operation, user_id, body)
        now = self._clock.now_ms()

        def store(tx: WriteTx) -> None:
            self._validations.take_in(tx, session)
            add_in(tx, user_id, session, now)

        await self._database.write(store)
        self._proof.finish(proven)

    async def _proven(self, user_id: str, credentials: object) -> ValidationSession:
        try:
            session = await self._validations.proven(ADD, credentials)
        except NotProvenYetError:
            # No stage of an authentication: a client that asks too early is told so.
            raise auth_failed() from None
        if session.user_id not in (None, user_id):
            raise auth_failed()
        return session

    async def add_or_bind(self, user_id: str, body: Mapping[str, Any]) -> None:
        """`POST /account/3pid`, deprecated: `add` for what was proven to this server, else `bind`.

        The specification has both in its words; unlike in older servers, an address by which the password
        can be reset is added to nobody's account without the password. Raises as they do, and 403
        M_THREEPID_AUTH_FAILED.
        """
        # COMPAT: the older name of the member.
        credentials = body.get("three_pid_creds") or body.get("threePidCreds")
        if not isinstance(credentials, dict):
            raise missing_param("The request body lacks three_pid_creds")
        try:
            await self.add(user_id, body, credentials)
        except MatrixError as error:
            if error.code != "M_THREEPID_AUTH_FAILED":
                raise
            if credentials.get("id_server") is None or credentials.get("id_access_token") is None:
                raise MatrixError(403, error.code, error.text) from None
            await self.bind(user_id, credentials)

    async def delete(self, user_id: str, body: Mapping[str, Any]) -> str:
        """`POST /account/3pid/delete`: the `id_server_unbind_result`. Raises 400."""
        medium, address = _address(body)
        servers = await self._servers(user_id, medium, address, body)
        if servers:
            self._limits.check(IDENTITY_SERVERS, user_id)
        await self._database.write(lambda tx: third_party.delete(tx, user_id, medium, address))
        if not servers:
            return NO_SUPPORT
        return await self._unbind_quietly(user_id, [Binding(medium, address, server) for server in servers])

    # -- identity servers

    async def bind(self, user_id: str, body: Mapping[str, Any]) -> None:
        """`POST /account/3pid/bind`: have an identity server publish an address as the user's.

        Raises 400 M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM; the identity server's own errors; 502;
        429 M_LIMIT_EXCEEDED.
        """
        id_server, token = _needed(body, "id_server"), _needed(body, "id_access_token")
        sid, secret = _needed(body, "sid"), _needed(body, "client_secret")
        if not is_secret(secret) or len(sid) > MAX_TEXT:
            raise invalid_param("sid or client_secret is not one of an identity server's session")
        self._limits.check(IDENTITY_SERVERS, user_id)
        try:
            medium, address = await self._identity.bind(id_server, token, sid, secret, user_id)
        except FederationError as error:
            raise told(error) from None
        now, binding = self._clock.now_ms(), Binding(medium, address, id_server)
        await self._database.write(
            lambda tx: third_party.put_binding(tx, user_id, binding, now, MAX_BINDINGS)
        )

    async def unbind(self, user_id: str, body: Mapping[str, Any]) -> str:
        """`POST /account/3pid/unbind`: the `id_server_unbind_result`.

        Raises 400 M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM; the identity server's own errors; 502;
        429 M_LIMIT_EXCEEDED.
        """
        medium, address = _address(body)
        servers = await self._servers(user_id, medium, address, body)
        if not servers:
            return NO_SUPPORT
        self._limits.check(IDENTITY_SERVERS, user_id)
        result = SUCCESS
        for server in servers:
            try:
                await self._unbind(user_id, Binding(medium, address, server))
            except FederationError as error:
                if supports_unbinding(error):
                    raise told(error) from None
                result = NO_SUPPORT
        return result

    async def _servers(
        self, user_id: str, medium: str, address: str, body: Mapping[str, Any]
    ) -> Sequence[str]:
        """Where to unbind an address: the server that the body names, or those that it was bound at."""
        named = _optional(body, "id_server")
        if named is not None:
            return [named]
        bindings = await self._database.look_up(lambda tx: third_party.bindings(tx, user_id))
        return [each.id_server for each in bindings if (each.medium, each.address) == (medium, address)]

    async def _unbind(self, user_id: str, binding: Binding) -> None:
        """Raises FederationError."""
        await self._identity.unbind(binding.id_server, user_id, binding.medium, binding.address)
        await self._database.write(lambda tx: third_party.delete_binding(tx, user_id, binding))

    async def _unbind_quietly(self, user_id: str, bindings: Sequence[Binding]) -> str:
        """Unbind all that can be, some at once and within UNBIND_SECONDS: whether all of them were."""
        places = asyncio.Semaphore(MAX_AT_ONCE)

        async def one(binding: Binding) -> bool:
            async with places:
                try:
                    await self._unbind(user_id, binding)
                except FederationError as error:
                    _log.info("an address was not unbound: %s", error)
                    return False
            return True

        try:
            async with asyncio.timeout(UNBIND_SECONDS):
                done = await asyncio.gather(*map(one, bindings))
        except TimeoutError:
            return NO_SUPPORT
        return SUCCESS if all(done) else NO_SUPPORT

    # -- the end of an account

    async def to_unbind(self, user_id: str, id_server: object) -> list[Binding]:
        """What is to be unbound when an account ends, before it does. Raises 400 M_BAD_JSON."""
        named = _optional({"id_server": id_server}, "id_server")
        bindings = await self._database.look_up(lambda tx: third_party.bindings(tx, user_id))
        addresses = await self._database.look_up(lambda tx: third_party.of_user(tx, user_id))
        known = dict.fromkeys(
            [
                *((each.medium, each.address) for each in bindings),
                *((each.medium, each.address) for each in addresses),
            ]
        )
        if named is not None:
            return [Binding(medium, address, named) for medium, address in known]
        return bindings

    async def unbind_all(self, user_id: str, bindings: Sequence[Binding]) -> str:
        """Unbind what an account that has ended leaves: the `id_server_unbind_result`."""
        result = await self._unbind_quietly(user_id, bindings) if bindings else SUCCESS
        # Nobody is left who could ask for it once more.
        await self._database.write(lambda tx: third_party.delete_bindings(tx, user_id))
        return result


def _address(body: Mapping[str, Any]) -> tuple[str, str]:
    """(medium, address) of a body. Raises 400 M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM."""
    medium, address = _needed(body, "medium"), _needed(body, "address")
    try:
        return medium, canonical(medium, address)
    except ValueError as error:
        raise invalid_param(str(error)) from None


def _needed(body: Mapping[str, Any], name: str) -> str:
    value = _optional(body, name)
    if value is None:
        raise missing_param(f"The request body lacks {name}")
    return value


def _optional(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise bad_json(f"{name} is not a string")
    if not value or (len(value) > MAX_TEXT and name != "id_access_token"):
        raise invalid_param(f"{name} is empty or longer than {MAX_TEXT} characters")
    return value
