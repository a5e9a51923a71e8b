"""User-Interactive Authentication (client-server §User-Interactive Authentication API).

Owns the sessions in which a client completes stages, bounded and expiring. A session is begun for
one operation of one user; from the first stage that it completes, for one request body too; it ends
with the operation, with too many failures, or with time. What a stage proves is told by the function
that checks it. Nothing is stored: after a restart clients begin again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import orjson

from comity.ports import Clock, Entropy
from comity.protocol.errors import MatrixError, bad_json, missing_param, not_found

#: Sessions under way, about 1 KiB each; the oldest goes when there are more.
MAX_SESSIONS = 10_000
#: Seconds that a person may take for all stages.
SESSION_SECONDS = 30 * 60.0
SESSION_ID_LENGTH = 24
#: Failed attempts in one session: people mistype; beyond that, somebody guesses.
MAX_FAILED_ATTEMPTS = 10

DUMMY = "m.login.dummy"
PASSWORD = "m.login.password"  # noqa: S105 - the name of a stage
REGISTRATION_TOKEN = "m.login.registration_token"  # noqa: S105 - the name of a stage
SSO = "m.login.sso"
EMAIL = "m.login.email.identity"
TERMS = "m.login.terms"

#: The ways through: each the stages to complete, in that order.
Flows = Sequence[Sequence[str]]
#: What clients are told of stages (`params`): stage -> its parameters.
Params = Mapping[str, object]
NO_PARAMS: Params = MappingProxyType({})
#: Checks one stage: (stage, the client's `auth`) -> what is to be remembered of it.
#: Raises MatrixError if it proves nothing; its code and text are told beside the flows.
CheckStage = Callable[[str, Mapping[str, Any]], Awaitable[object]]


class AuthenticationNeededError(MatrixError):
    """401 with the flows that are open; without an error unless an attempt failed."""

    def __init__(self, details: Mapping[str, object], failed: MatrixError | None = None) -> None:
        super().__init__(
            401,
            failed.code if failed else "M_UNAUTHORIZED",
            failed.text if failed else "User-interactive authentication is needed",
            extra=details,
        )
        self._failed = failed

    def body(self) -> dict[str, object]:
        """The flows, the session and what is completed; `errcode` only after a failed attempt."""
        return super().body() if self._failed else dict(self.extra)


class NotYetError(MatrixError):
    """A stage cannot be complete yet, and the client asks again until it is: nothing was guessed."""


class RefusedError(MatrixError):
    """A stage is refused as it stands: told with this status, without the flows."""


@dataclass(frozen=True, slots=True)
class _Offer:
    flows: Flows
    params: Params


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A session as it is shown to who completes a stage of it in a browser.

    `user_id` is None if nobody is logged in, as before registration; `open_stages` can be completed now.
    """

    operation: str
    user_id: str | None
    open_stages: tuple[str, ...]
    params: Params


@dataclass(slots=True)
class _Session:
    operation: str
    user_id: str | None
    #: As of the request that began it, and what tells that request from others.
    offer: _Offer
    check: CheckStage
    begun_for: bytes
    expires_at: float = 0.0
    completed: dict[str, object] = field(default_factory=dict)
    #: Of the request whose first stage was completed.
    digest: bytes | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Proven:
    """A flow is complete: what each stage gave. `finish` it when the operation has succeeded."""

    session_id: str
    completed: Mapping[str, object]


class Interactive:
    """Every session of this process."""

    def __init__(self, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._entropy = entropy
        self._sessions: dict[str, _Session] = {}

    async def require(
        self,
        operation: str,
        flows: Flows,
        body: Mapping[str, Any],
        check: CheckStage,
        params: Params = NO_PARAMS,
        *,
        user_id: str | None = None,
    ) -> Proven:
        """Return once a flow is complete for `operation` (what is done, to what, by whom).

        The stages of a flow are completed in its order; `params` are told beside the flows. `body` is
        the request's, with the client's `auth` in it if it has one; `user_id` is who is logged in, for
        stages that are completed in a browser. Raises AuthenticationNeededError with what is missing,
        RefusedError, 400 M_BAD_JSON or M_MISSING_PARAM for an `auth` that is none.
        """
        offer, digest = _Offer(flows, params), _digest(body)

        def begin() -> str:
            return self._begin(_Session(operation, user_id, offer, check, digest))

        auth = body.get("auth")
        if auth is None:
            raise self._needed(begin(), offer)
        if not isinstance(auth, dict):
            raise bad_json("auth is not a JSON object")
        session_id = auth.get("session")
        if session_id is not None and not isinstance(session_id, str):
            raise bad_json("auth.session is not a string")
        session = self._find(session_id, operation)
        if session is None:
            if session_id is not None:
                raise self._again(begin(), offer, "The session is unknown or over: begin again")
            # COMPAT: clients that know the flows give the proof at once, without a session.
            session_id = begin()
            session = self._sessions[session_id]
        assert session_id is not None
        if session.digest not in (None, digest):
            # What was proven was proven for that request; a client that wants another begins anew.
            raise self._again(begin(), offer, "This is not the request that the session is for: begin again")
        stage = auth.get("type")
        if stage is None and "session" not in auth:
            raise missing_param("auth lacks type")
        if stage is not None and not isinstance(stage, str):
            raise bad_json("auth.type is not a string")
        # Completed stages cannot be retried: they are told, or are enough.
        if stage is not None and stage not in session.completed:
            await self._attempt(session_id, session, offer, stage, auth, check)
            session.digest = digest
        if any(all(stage in session.completed for stage in flow) for flow in flows):
            return Proven(session_id, session.completed)
        raise self._needed(session_id, offer)

    async def _attempt(
        self,
        session_id: str,
        session: _Session,
        offer: _Offer,
        stage: str,
        auth: Mapping[str, Any],
        check: CheckStage,
    ) -> None:
        """Complete one stage. Raises AuthenticationNeededError if it proves nothing, RefusedError, 429."""
        if not any(stage in flow for flow in offer.flows):
            unknown = MatrixError(401, "M_UNRECOGNIZED", "This is not a stage of any flow")
            raise self._needed(session_id, offer, unknown)
        if not any(_is_next(stage, flow, session.completed) for flow in offer.flows):
            early = MatrixError(401, "M_UNAUTHORIZED", "Other stages of the flow come before this one")
            raise self._needed(session_id, offer, early)
        try:
            session.completed[stage] = await check(stage, auth)
        except NotYetError as error:
            raise self._needed(session_id, offer, error) from None
        except MatrixError as error:
            if error.status == 429:
                raise
            session.failures += 1
            if session.failures >= MAX_FAILED_ATTEMPTS:
                self._sessions.pop(session_id, None)
                again = _Session(session.operation, session.user_id, offer, check, session.begun_for)
                text = "Too many attempts failed: begin again"
                raise self._again(self._begin(again), offer, text) from None
            if isinstance(error, RefusedError):
                raise
            raise self._needed(session_id, offer, error) from None

    def _again(self, session_id: str, offer: _Offer, text: str) -> AuthenticationNeededError:
        """The client's session is of no use; this one was begun in its place."""
        return self._needed(session_id, offer, MatrixError(401, "M_UNAUTHORIZED", text))

    def finish(self, proven: Proven) -> None:
        """The operation is done: its session proves nothing any more."""
        self._sessions.pop(proven.session_id, None)

    # -- stages that are completed in a browser (client-server §Fallback)

    def under_way(self, session_id: str) -> UnderWay | None:
        """What a session is for, and which stages can be completed in it; None if it is unknown or over."""
        session = self._sessions.get(session_id)
        if session is None or session.expires_at <= self._clock.monotonic():
            return None
        flows, done = session.offer.flows, session.completed
        stages = dict.fromkeys(stage for flow in flows for stage in flow if _is_next(stage, flow, done))
        left = tuple(stage for stage in stages if stage not in done)
        return UnderWay(session.operation, session.user_id, left, session.offer.params)

    async def complete(self, session_id: str, stage: str, auth: Mapping[str, Any]) -> None:
        """Complete a stage by what was written on a page: `auth` as a client would send it.

        Raises 404 M_NOT_FOUND if there is no such stage to complete, and as what checks the stage.
        """
        session = self._open(session_id, stage)
        try:
            session.completed[stage] = await session.check(stage, auth)
        except MatrixError as error:
            session.failures += error.status != 429 and not isinstance(error, NotYetError)
            if session.failures >= MAX_FAILED_ATTEMPTS:
                self._sessions.pop(session_id, None)
            raise

    def note_complete(self, session_id: str, stage: str, proof: object) -> None:
        """A stage was completed elsewhere: `proof` is remembered of it.

        From then on, the session is for the request alone that began it: that one was approved. Raises 404
        M_NOT_FOUND if there is no such stage to complete.
        """
        session = self._open(session_id, stage)
        session.completed[stage] = proof
        session.digest = session.digest or session.begun_for

    def _open(self, session_id: str, stage: str) -> _Session:
        session, shown = self._sessions.get(session_id), self.under_way(session_id)
        if session is None or shown is None or stage not in shown.open_stages:
            raise not_found("This step is done already, or took too long: go back to the app, and try again")
        return session

    # -- sessions

    def _begin(self, session: _Session) -> str:
        now = self._clock.monotonic()
        # The oldest stand first: those that are over go, and the oldest if there are too many.
        for session_id in list(self._sessions):
            if self._sessions[session_id].expires_at > now and len(self._sessions) < MAX_SESSIONS:
                break
            del self._sessions[session_id]
        session_id = self._entropy.token(SESSION_ID_LENGTH)
        session.expires_at = now + SESSION_SECONDS
        self._sessions[session_id] = session
        return session_id

    def _find(self, session_id: str | None, operation: str) -> _Session | None:
        session = self._sessions.get(session_id) if session_id is not None else None
        if session is None or session.operation != operation or session.expires_at <= self._clock.monotonic():
            return None
        return session

    def _needed(
        self, session_id: str, offer: _Offer, failed: MatrixError | None = None
    ) -> AuthenticationNeededError:
        session = self._sessions.get(session_id)
        details: dict[str, object] = {
            "session": session_id,
            "flows": [{"stages": list(flow)} for flow in offer.flows],
            "params": dict(offer.params),
        }
        if session is not None and session.completed:
            details["completed"] = list(session.completed)
        return AuthenticationNeededError(details, failed)


def _is_next(stage: str, flow: Sequence[str], completed: Mapping[str, object]) -> bool:
    """client-server §User-Interactive Authentication API: stages must be completed in order."""
    return stage in flow and all(before in completed for before in flow[: flow.index(stage)])


def _digest(body: Mapping[str, Any]) -> bytes:
    """What tells one request from another, but for `auth`."""
    rest = {name: value for name, value in body.items() if name != "auth"}
    return hashlib.sha256(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)).digest()
