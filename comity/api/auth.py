"""Guards of routes for users: whom an access token stands for (client-server §Using access tokens)."""

from __future__ import annotations

from comity.api import limited
from comity.api.address import client_address
from comity.api.guests import may_ask_as_guest
from comity.api.router import Call, Guard, path_behind_version
from comity.api.suspended import may_ask_while_suspended
from comity.ports import Headers
from comity.protocol.errors import MatrixError, forbidden, guest_access_forbidden, user_suspended
from comity.users.rate_limits import RateLimits
from comity.users.sessions import Held, Session, Sessions, user_locked

#: What users may ask whose account is locked (client-server §Account locking).
OPEN_TO_LOCKED = (("POST", "/logout"), ("POST", "/logout/all"))
#: What asks for a proof that sessions of OAuth 2.0 cannot give (client-server §OAuth 2.0 API): their users
#: do it on the account page.
CLOSED_TO_OAUTH = frozenset(
    {
        ("POST", "/account/password"),
        ("POST", "/account/deactivate"),
        ("POST", "/account/3pid/add"),
        ("POST", "/delete_devices"),
        ("DELETE", "/devices/{deviceId}"),
        ("POST", "/login/get_token"),
    }
)
#: Seconds for which a guard that is asked again for one request holds by its answer, if no session has ended.
MOMENT_SECONDS = 1.0


def token_of(call: Call) -> str | None:
    """The access token of a request, if it carries one."""
    header = call.request.headers.get("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
    # COMPAT: deprecated, but what older clients and many scripts do.
    return call.query("access_token")


class UserGuard:
    """The Guard of what is for users only, as often as they may ask: sets `call.requester`."""

    def __init__(self, sessions: Sessions, limits: RateLimits) -> None:
        self._sessions = sessions
        self._limits = limits

    async def __call__(self, call: Call) -> None:
        """Raises 401 M_MISSING_TOKEN, M_UNKNOWN_TOKEN or M_USER_LOCKED, 429 M_LIMIT_EXCEEDED.

        Guests get 403 M_GUEST_ACCESS_FORBIDDEN but for what `comity.api.guests` lists; those who are
        suspended, 403 M_USER_SUSPENDED but for what `comity.api.suspended` lists; sessions of OAuth 2.0,
        403 M_FORBIDDEN for what CLOSED_TO_OAUTH lists.
        """
        sessions = self._sessions
        began = changes, now = sessions.changes, sessions.clock.monotonic()
        if call.admitted is not None and _is_same_moment(call.admitted, began):
            return
        held = _held(sessions, call, changes, now)
        session = held.session if held is not None else None
        if session is None or session.locked or session.by_oauth:
            session = await _session(sessions, call, token_of(call))
        if session.guest and not may_ask_as_guest(call):
            raise guest_access_forbidden("This is not for guests: it needs an account")
        if session.suspended and not may_ask_while_suspended(call):
            raise user_suspended()
        call.user = session
        limited.check(self._limits, call)
        call.admitted = began

    def admitted(self, call: Call) -> Session | None:
        """Whom the guard lets through by what is in memory alone, without counting it; as `call.requester`.

        None also where only the guard itself can tell.
        """
        sessions = self._sessions
        began = changes, now = sessions.changes, sessions.clock.monotonic()
        if call.admitted is not None and _is_same_moment(call.admitted, began):
            return call.user
        held = _held(sessions, call, changes, now)
        if held is None:
            return None
        session = held.session
        if session.locked or session.guest or session.suspended:
            return None
        if (session.by_oauth and _is_closed_to_oauth(call)) or not limited.is_free(call):
            return None
        call.user, call.admitted = session, began
        return session


def _held(sessions: Sessions, call: Call, changes: int, now: float) -> Held | None:
    """Whom memory knows by the token; it is not looked up again where the headers are the last ones again.

    `changes` is of the sessions, `now` on the monotonic clock.
    """
    headers = call.request.headers
    note = headers.note if isinstance(headers, Headers) else None
    if isinstance(note, Held) and note.changes == changes and now < note.until:
        return note
    token = token_of(call)
    held = sessions.remembered(token) if token else None
    if held is not None and isinstance(headers, Headers) and "authorization" in headers:
        headers.note = held
    return held


def _is_same_moment(admitted: tuple[int, float], now: tuple[int, float]) -> bool:
    """Whether who was let in a moment ago need not be asked again: nobody's tokens have changed since."""
    return admitted[0] == now[0] and now[1] - admitted[1] < MOMENT_SECONDS


def optional_user_guard(sessions: Sessions, limits: RateLimits) -> Guard:
    """Anybody: sets `call.user` if there is a token.

    Raises 401 M_UNKNOWN_TOKEN for a bad one, 429 M_LIMIT_EXCEEDED.

    A guest is nobody in particular here: what needs no account is theirs too, and no more.
    """

    async def guard(call: Call) -> None:
        if token_of(call):
            session = await _session(sessions, call, token_of(call))
            call.user = None if session.guest else session
        if call.user is not None:
            limited.check(limits, call)
        else:
            limited.check_visitor(limits, call)

    return guard


async def _session(sessions: Sessions, call: Call, token: str | None) -> Session:
    if not token:
        raise MatrixError(401, "M_MISSING_TOKEN", "This request needs an access token")
    held = sessions.remembered(token)
    session = held.session if held is not None else None
    if session is None:
        program = call.request.headers.get("user-agent", "")
        session = await sessions.authenticate(token, client_address(call.request), program)
    if session is None:
        raise MatrixError(401, "M_UNKNOWN_TOKEN", "The access token is not, or no longer, valid")
    if session.locked and (call.request.method, path_behind_version(call.template)) not in OPEN_TO_LOCKED:
        raise user_locked()
    # Also where a token is optional: a password may be set by who has none, but not by such an app.
    if session.by_oauth and _is_closed_to_oauth(call):
        raise forbidden("This app was logged in by OAuth 2.0: go to this server's account page for that")
    return session


def _is_closed_to_oauth(call: Call) -> bool:
    return (call.request.method, path_behind_version(call.template)) in CLOSED_TO_OAUTH


def must_be_self(call: Call, name: str = "userId") -> str:
    """The requester's user id, which the path must name too. Raises 403 M_FORBIDDEN."""
    user_id = call.requester.user_id
    if call.parameters[name] != user_id:
        raise forbidden("This is for the user alone")
    return user_id
