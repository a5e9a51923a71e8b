"""What people must do before they get an account: the flows of registration, and the checks of their stages.

client-server §Account registration and the stages m.login.registration_token, m.login.terms and
m.login.email.identity. Owns which stages there are and in which order, and what follows from each once the
account is made. Who may register at all, and the making of accounts, is `comity.users.registration`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comity.config import Registration, Terms
from comity.ports import Clock
from comity.protocol.errors import MatrixError, forbidden, missing_param
from comity.store import accounts, third_party
from comity.store.database import Database, WriteTx
from comity.store.validation import ValidationSession
from comity.users.interactive import DUMMY, EMAIL, REGISTRATION_TOKEN, TERMS, Flows, Proven
from comity.users.rate_limits import RateLimits
from comity.users.third_party_ids import add_in
from comity.users.validation import REGISTER, Validations, in_use

#: client-server §Token-authenticated registration.
MAX_REGISTRATION_TOKEN_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Requirements:
    """What the configuration asks of new users."""

    flows: Flows
    params: Mapping[str, object]
    #: (policy id, version) of what they accept.
    policies: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, registration: Registration, terms: Terms, *, with_email: bool) -> Requirements:
        """The requirements of a configuration; `with_email` says whether letters can be sent."""
        common = [REGISTRATION_TOKEN] if registration.requires == "token" else []
        params: dict[str, object] = {}
        if terms.policies:
            common.append(TERMS)
            params[TERMS] = {"policies": {policy.identifier: policy.told() for policy in terms.policies}}
        flows: list[list[str]] = []
        if with_email:
            flows.append([*common, EMAIL])
        if not (with_email and registration.requires_email):
            # m.login.dummy tells a flow from one of which it is the beginning (client-server §Dummy Auth).
            flows.insert(0, [*common, DUMMY] if with_email or not common else common)
        return cls(flows, params, tuple((policy.identifier, policy.version) for policy in terms.policies))


class Welcome:
    """Checks the stages of registration, and does what follows from them."""

    def __init__(
        self,
        registration: Registration,
        terms: Terms,
        database: Database,
        clock: Clock,
        limits: RateLimits,
        validations: Validations,
    ) -> None:
        self.requirements = Requirements.of(registration, terms, with_email=validations.enabled)
        self._database = database
        self._clock = clock
        self._limits = limits
        self._validations = validations

    async def check(self, stage: str, auth: Mapping[str, Any], address: str) -> object:
        """What a stage proves: the token, the session of the e-mail address, or True.

        Raises 401 M_UNAUTHORIZED, 400 M_MISSING_PARAM, M_BAD_JSON, M_THREEPID_AUTH_FAILED,
        M_THREEPID_IN_USE, 429 M_LIMIT_EXCEEDED.
        """
        if stage == REGISTRATION_TOKEN:
            return await self._check_token(auth, address)
        if stage == EMAIL:
            return await self._check_email(auth)
        return True

    async def _check_token(self, auth: Mapping[str, Any], address: str) -> str:
        token = auth.get("token")
        if not isinstance(token, str):
            raise missing_param("auth lacks token")
        self._limits.check_attempt(("", address))
        valid = await self.is_valid_token(token)
        self._limits.note_attempt(("", address), failed=not valid)
        if not valid:
            raise MatrixError(401, "M_UNAUTHORIZED", "The registration token is not valid")
        return token

    async def _check_email(self, auth: Mapping[str, Any]) -> ValidationSession:
        # COMPAT: the older name of the member.
        session = await self._validations.proven(
            REGISTER, auth.get("threepid_creds") or auth.get("threepidCreds")
        )
        if await self._database.look_up(lambda tx: third_party.owner(tx, session.medium, session.address)):
            raise in_use()
        return session

    async def request_token(self, body: Mapping[str, Any], address: str) -> dict[str, object]:
        """A letter to the address that somebody wants to register with. Raises as `Validations.request`."""
        return await self._validations.request(REGISTER, body, address)

    async def is_valid_token(self, token: str) -> bool:
        """Whether a registration token is good."""
        if not token or len(token) > MAX_REGISTRATION_TOKEN_CHARACTERS or "\x00" in token:
            return False
        found = await self._database.look_up(lambda tx: accounts.registration_token(tx, token))
        return found is not None and found.is_valid(self._clock.now_ms())

    def complete_in(self, tx: WriteTx, proven: Proven, user_id: str) -> None:
        """What follows from the stages, in the transaction that makes the account.

        Raises 403 M_FORBIDDEN if the token was used up meanwhile, 400 M_THREEPID_AUTH_FAILED or
        M_THREEPID_IN_USE for the address.
        """
        now = self._clock.now_ms()
        token, session = proven.completed.get(REGISTRATION_TOKEN), proven.completed.get(EMAIL)
        if isinstance(token, str) and not accounts.use_registration_token(tx, token, now):
            raise forbidden("The registration token has been used up meanwhile")
        if isinstance(session, ValidationSession):
            self._validations.take_in(tx, session)
            add_in(tx, user_id, session, now)
        if TERMS in proven.completed:
            third_party.accept_terms(tx, user_id, self.requirements.policies, now)
