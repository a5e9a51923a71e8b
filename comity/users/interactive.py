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
from comity.protocol.errors import MatrixError, bad_json, missing_param

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
EMAIL = "m.login.email.identity"
TERMS = "m.login.terms"

NO_PARAMS: Mapping[str, Any] = MappingProxyType({})

#: The ways through: each the stages to complete, in that order.
Flows = Sequence[Sequence[str]]
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


@dataclass(slots=True)
class _Session:
    operation: str
    expires_at: float
    params: Mapping[str, Any]
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
        *,
        params: Mapping[str, Any] = NO_PARAMS,
    ) -> Proven:
        """Return once a flow is complete for `operation` (what is done, to what, by whom).

        The stages of a flow are completed in its order. `body` is the request's, with the client's
        `auth` in it if it has one; `params` is told beside the flows. Raises AuthenticationNeededError
        with what is missing, 400 M_BAD_JSON or M_MISSING_PARAM for an `auth` that is none.
        """
        auth = body.get("auth")
        if auth is None:
            raise self._needed(self._begin(operation, params), flows)
        if not isinstance(auth, dict):
            raise bad_json("auth is not a JSON object")
        session_id = auth.get("session")
        if session_id is not None and not isinstance(session_id, str):
            raise bad_json("auth.session is not a string")
        digest = _digest(body)
        session = self._find(session_id, operation)
        if session is None:
            if session_id is not None:
                raise self._again(operation, flows, "The session is unknown or over: begin again", params)
            # COMPAT: clients that know the flows give the proof at once, without a session.
            session_id = self._begin(operation, params)
            session = self._sessions[session_id]
        assert session_id is not None
        if session.digest not in (None, digest):
            # What was proven was proven for that request; a client that wants another begins anew.
            raise self._again(
                operation, flows, "This is not the request that the session is for: begin again", params
            )
        stage = auth.get("type")
        if stage is None and "session" not in auth:
            raise missing_param("auth lacks type")
        if stage is not None and not isinstance(stage, str):
            raise bad_json("auth.type is not a string")
        # Completed stages cannot be retried: they are told, or are enough.
        if stage is not None and stage not in session.completed:
            await self._attempt(session_id, session, flows, stage, auth, check)
            session.digest = digest
        if any(all(stage in session.completed for stage in flow) for flow in flows):
            return Proven(session_id, session.completed)
        raise self._needed(session_id, flows)

    async def _attempt(
        self,
        session_id: str,
        session: _Session,
        flows: Flows,
        stage: str,
        auth: Mapping[str, Any],
        check: CheckStage,
    ) -> None:
        """Complete one stage. Raises AuthenticationNeededError if it proves nothing, 429."""
        if not any(stage in flow for flow in flows):
            unknown = MatrixError(401, "M_UNRECOGNIZED", "This is not a stage of any flow")
            raise self._needed(session_id, flows, unknown)
        if not any(_is_next(stage, flow, session.completed) for flow in flows):
            early = MatrixError(401, "M_UNAUTHORIZED", "Other stages of the flow come before this one")
            raise self._needed(session_id, flows, early)
        try:
            session.completed[stage] = await check(stage, auth)
        except NotYetError as error:
            raise self._needed(session_id, flows, error) from None
        except MatrixError as error:
            if error.status == 429:
                raise
            session.failures += 1
            if session.failures >= MAX_FAILED_ATTEMPTS:
                self._sessions.pop(session_id, None)
                text = "Too many attempts failed: begin again"
                raise self._again(session.operation, flows, text, session.params) from None
            raise self._needed(session_id, flows, error) from None

    def _again(
        self, operation: str, flows: Flows, text: str, params: Mapping[str, Any]
    ) -> AuthenticationNeededError:
        """That session is of no use; another is begun."""
        return self._needed(self._begin(operation, params), flows, MatrixError(401, "M_UNAUTHORIZED", text))

    def finish(self, proven: Proven) -> None:
        """The operation is done: its session proves nothing any more."""
        self._sessions.pop(proven.session_id, None)

    def _begin(self, operation: str, params: Mapping[str, Any]) -> str:
        now = self._clock.monotonic()
        # The oldest stand first: those that are over go, and the oldest if there are too many.
        for session_id in list(self._sessions):
            if self._sessions[session_id].expires_at > now and len(self._sessions) < MAX_SESSIONS:
                break
            del self._sessions[session_id]
        session_id = self._entropy.token(SESSION_ID_LENGTH)
        self._sessions[session_id] = _Session(operation, now + SESSION_SECONDS, params)
        return session_id

    def _find(self, session_id: str | None, operation: str) -> _Session | None:
        session = self._sessions.get(session_id) if session_id is not None else None
        if session is None or session.operation != operation or session.expires_at <= self._clock.monotonic():
            return None
        return session

    def _needed(
        self, session_id: str, flows: Flows, failed: MatrixError | None = None
    ) -> AuthenticationNeededError:
        session = self._sessions.get(session_id)
        details: dict[str, object] = {
            "session": session_id,
            "flows": [{"stages": list(flow)} for flow in flows],
            "params": dict(session.params) if session is not None else {},
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
