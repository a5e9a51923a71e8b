"""Guards of routes for users: whom an access token stands for (client-server §Using access tokens)."""

from __future__ import annotations

from comity.api.address import client_address
from comity.api.router import Call, Guard, Requester
from comity.protocol.errors import MatrixError, forbidden
from comity.users.sessions import Session, Sessions


def token_of(call: Call) -> str | None:
    """The access token of a request, if it carries one."""
    header = call.request.headers.get("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
    # COMPAT: deprecated, but what older clients and many scripts do.
    return call.query("access_token")


def user_guard(sessions: Sessions) -> Guard:
    """Only users: sets `call.requester`. Raises 401 M_MISSING_TOKEN or M_UNKNOWN_TOKEN."""

    async def guard(call: Call) -> None:
        token = token_of(call)
        if not token:
            raise MatrixError(401, "M_MISSING_TOKEN", "This request needs an access token")
        session = await sessions.authenticate(token, client_address(call.request))
        if session is None:
            raise MatrixError(401, "M_UNKNOWN_TOKEN", "The access token is not, or no longer, valid")
        call.user = _requester(session)

    return guard


def optional_user_guard(sessions: Sessions) -> Guard:
    """Anybody: sets `call.user` if there is a token. Raises 401 M_UNKNOWN_TOKEN for a bad one."""
    required = user_guard(sessions)

    async def guard(call: Call) -> None:
        if token_of(call):
            await required(call)

    return guard


def _requester(session: Session) -> Requester:
    return Requester(session.user_id, session.device_id, session.admin)


def must_be_self(call: Call, name: str = "userId") -> str:
    """The requester's user id, which the path must name too. Raises 403 M_FORBIDDEN."""
    user_id = call.requester.user_id
    if call.parameters[name] != user_id:
        raise forbidden("This is for the user alone")
    return user_id
