"""The route table: method and path to a handler, in one walk over the path's segments.

Owns decoding of paths, queries and JSON bodies, and the answers for what is not there
(404/405 M_UNRECOGNIZED, client-server §Standard error response). It authenticates nobody:
each route names its guard (`comity.api.auth`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, unquote_plus

import orjson

from comity.ports import Request, Response, Waiter, Waiting
from comity.protocol import canonical_json
from comity.protocol.errors import MatrixError, bad_json, invalid_param, missing_param, too_large
from comity.users.sessions import Session

_log = logging.getLogger(__name__)
#: Templates that are remembered without what stands before them: more than there are routes.
MAX_REMEMBERED_TEMPLATES = 1_024
#: A path with more segments than this is nobody's.
MAX_SEGMENTS = 16
#: Query parameters that one request may carry.
MAX_QUERY_PARAMETERS = 200
#: Values of queries that are remembered as they were decoded, and the longest of them in characters.
MAX_REMEMBERED_TEXTS, MAX_REMEMBERED_TEXT = 1_000, 2_000
#: Characters of an integer in a query that are read: with as many it is beyond every bound.
MAX_DIGITS = 20
_INTEGER = re.compile("-?[0-9]+")
JSON_HEADERS = {"Content-Type": "application/json"}
#: client-server §Web Browser Clients.
CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
}


#: Those of an answer of JSON to a browser, never changed.
_JSON_CORS_HEADERS = {**JSON_HEADERS, **CORS_HEADERS}


def json_at_once(body: bytes) -> Response:
    """The answer of an `AtOnceHandler`: finished JSON."""
    return Response(200, body, _JSON_CORS_HEADERS)


def json_response(value: object, status: int = 200) -> Response:
    """A JSON answer; `orjson.Fragment`s inside are spliced as they are."""
    return Response(status, orjson.dumps(value), dict(JSON_HEADERS))


class WrongMethodError(MatrixError):
    """405 M_UNRECOGNIZED; `allowed` are the methods that the endpoint has (RFC 9110 §15.5.6)."""

    def __init__(self, method: str, allowed: Collection[str]) -> None:
        super().__init__(405, "M_UNRECOGNIZED", f"The method {method} is not for this endpoint")
        self.allowed = sorted({*allowed, "OPTIONS", *(["HEAD"] if "GET" in allowed else [])})


def error_response(error: MatrixError) -> Response:
    """The answer that tells a MatrixError."""
    response = json_response(error.body(), error.status)
    if isinstance(error, WrongMethodError):
        response.headers["Allow"] = ", ".join(error.allowed)
    retry_after = error.extra.get("retry_after_ms")
    if isinstance(retry_after, int):
        response.headers["Retry-After"] = str(-(-retry_after // 1000))
    return response


def _query_of(text: str) -> Mapping[str, list[str]]:
    """Every parameter of a query. Raises 400 M_INVALID_PARAM for too many."""
    if len(text) > MAX_REMEMBERED_TEXT or "access_token" in text:
        return _parsed_query(text)
    return _remembered_query(text)


@lru_cache(MAX_REMEMBERED_TEXTS)
def _remembered_query(text: str) -> Mapping[str, list[str]]:
    """All who are woken by one event ask for the next in the same words."""
    return _parsed_query(text)


def _parsed_query(text: str) -> dict[str, list[str]]:
    pairs = text.split("&")
    if len(pairs) > MAX_QUERY_PARAMETERS:
        raise invalid_param(f"The query has more than {MAX_QUERY_PARAMETERS} parameters")
    found: dict[str, list[str]] = {}
    for pair in pairs:
        if pair:
            name, _, value = pair.partition("=")
            found.setdefault(_decoded(name), []).append(_decoded(value))
    return found


def _decoded(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    return _remembered(text) if len(text) <= MAX_REMEMBERED_TEXT else unquote_plus(text)


@lru_cache(MAX_REMEMBERED_TEXTS)
def _remembered(text: str) -> str:
    """Clients send the same filter with every request."""
    return unquote_plus(text)


@dataclass(slots=True)
class Call:
    """One request on its way to a handler.

    `parameters` are the decoded variable segments of the path; `requester` or `origin` is set
    by the route's guard.
    """

    request: Request
    parameters: Mapping[str, str]
    #: The route's, as it was added.
    template: str = ""
    user: Session | None = None
    server: str = ""
    #: Called once the request is answered, well or not: what the guard began ends with it.
    at_end: Callable[[], None] | None = None
    #: What the guard saw when it let the request through, so that it need not look again a moment later.
    admitted: tuple[int, float] | None = None
    _query: Mapping[str, list[str]] | None = None
    _json: object = field(default=None)

    @property
    def requester(self) -> Session:
        """The authenticated user; only on routes with a user guard."""
        if self.user is None:
            raise RuntimeError("This route has no user guard")
        return self.user

    @property
    def origin(self) -> str:
        """The authenticated server; only on routes with a server guard."""
        if not self.server:
            raise RuntimeError("This route has no server guard")
        return self.server

    def query_all(self, name: str) -> list[str]:
        """Every value of a query parameter."""
        query = self._query
        if query is None:
            query = self._query = _query_of(self.request.query)
        return query.get(name, [])

    def query(self, name: str, default: str | None = None) -> str | None:
        """The first value of a query parameter."""
        query = self._query
        if query is None:
            query = self._query = _query_of(self.request.query)
        values = query.get(name)
        return default if values is None else values[0]

    def query_required(self, name: str) -> str:
        """The value of a parameter that must be there. Raises 400 M_MISSING_PARAM."""
        value = self.query(name)
        if value is None:
            raise missing_param(f"The query parameter {name} is missing")
        return value

    def query_int(self, name: str, default: int, *, least: int = 0, most: int = 2**53 - 1) -> int:
        """An integer parameter, held between `least` and `most`. Raises 400 M_INVALID_PARAM."""
        text = self.query(name)
        if text is None:
            return default
        # Python takes more for an integer than others do: 1_000, digits of any script.
        if _INTEGER.fullmatch(text) is None:
            raise invalid_param(f"The query parameter {name} is not an integer")
        return min(max(int(text[:MAX_DIGITS]), least), most)

    def query_bool(self, name: str, *, default: bool = False) -> bool:
        """A boolean parameter. Raises 400 M_INVALID_PARAM."""
        text = self.query(name)
        if text is None:
            return default
        if text not in ("true", "false"):
            raise invalid_param(f"The query parameter {name} is neither true nor false")
        return text == "true"

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises 400 M_NOT_JSON or M_BAD_JSON, 413 M_TOO_LARGE."""
        if self._json is None:
            value = self.deep_json()
            try:
                canonical_json.check_nesting(value)
            except canonical_json.CanonicalJsonError as error:
                self._json = None
                raise MatrixError(400, "M_NOT_JSON", str(error)) from None
        return self.deep_json()

    def deep_json(self) -> dict[str, Any]:
        """As `json`, but nested as deep as JSON goes.

        For bodies of other servers' events: one event that is nested too deep is dropped by
        itself, and must not make a whole transaction unreadable.
        """
        if self._json is None:
            if self.request.body_too_large:
                raise too_large("The request body is too large")
            try:
                self._json = canonical_json.parse(self.request.body)
            except canonical_json.CanonicalJsonError as error:
                raise MatrixError(400, "M_NOT_JSON", str(error)) from None
        if not isinstance(self._json, dict):
            raise bad_json("The request body is not a JSON object")
        return self._json

    def json_or_empty(self) -> dict[str, Any]:
        """The body as a JSON object; an absent body counts as `{}`."""
        return self.json() if self.request.body or self.request.body_too_large else {}

    def field(self, name: str, kind: type, *, required: bool = True) -> Any:
        """One member of the body, checked for its type. Raises 400 M_MISSING_PARAM or M_BAD_JSON."""
        value = self.json().get(name)
        if value is None:
            if required:
                raise missing_param(f"The request body lacks {name}")
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise bad_json(f"The request body's {name} is not of type {kind.__name__}")
        return value


#: What must hold of a request, where an endpoint is not open for all that it does.
Condition = Callable[[Call], bool]
_NO_PARAMETERS: Mapping[str, str] = {}
#: What stands before a path of the client-server API: nothing, `_matrix`, `client`, the version.
_PREFIX_SEGMENTS = 4


def always(_: Call) -> bool:
    """The Condition that holds."""
    return True


@lru_cache(MAX_REMEMBERED_TEMPLATES)
def path_behind_version(template: str) -> str:
    """The template of a route of the client-server API, from behind its version on."""
    return "/" + "/".join(template.split("/")[_PREFIX_SEGMENTS:])


def _named(names: tuple[str, ...], values: Sequence[str]) -> dict[str, str]:
    try:
        decoded = [unquote(value, errors="strict") if "%" in value else value for value in values]
    except UnicodeDecodeError:
        raise invalid_param("The path is not valid UTF-8") from None
    return dict(zip(names, decoded, strict=True))


Handler = Callable[[Call], Awaitable[Response]]
Guard = Callable[[Call], Awaitable[None]]
#: Answers what takes neither a task nor the database; None, with nothing done, for all else.
AtOnceHandler = Callable[[Call, Waiter], Response | Waiting | None]


@dataclass(slots=True)
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    variable: _Node | None = None
    routes: dict[str, tuple[Handler, Guard | None, tuple[str, ...], str, str]] = field(default_factory=dict)


class Router:
    """Every route of every listener."""

    def __init__(self) -> None:
        self._root = _Node()
        #: The nodes of paths without variables, by the path.
        self._literal: dict[str, _Node] = {}
        #: Of GETs of some of them: the kind of listener, the template, who may answer at once.
        self._at_once: dict[str, tuple[str, str, AtOnceHandler]] = {}

    def add(
        self, method: str, template: str, handler: Handler, *, guard: Guard | None, serves: str = "client"
    ) -> None:
        """Add a route. `template` is like `/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}`.

        `serves` names the kind of listener that may serve it.
        """
        node = self._root
        names = []
        for segment in template.strip("/").split("/"):
            if segment.startswith("{"):
                names.append(segment[1:-1])
                if node.variable is None:
                    node.variable = _Node()
                node = node.variable
            else:
                node = node.literals.setdefault(segment, _Node())
        if method in node.routes:
            raise ValueError(f"{method} {template} is routed twice")
        node.routes[method] = (handler, guard, tuple(names), serves, template)
        if not names:
            self._literal[template] = node

    def add_at_once(self, template: str, handler: AtOnceHandler) -> None:
        """Have a handler asked first by GETs of a route without variables, which was added before.

        It asks the guard itself.
        """
        route = self._literal[template].routes["GET"]
        self._at_once[template] = (route[3], template, handler)

    def templates(self) -> list[tuple[str, str]]:
        """(method, template) of every route."""
        found: list[tuple[str, str]] = []
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            found.extend((method, route[4]) for method, route in node.routes.items())
            nodes.extend(node.literals.values())
            if node.variable is not None:
                nodes.append(node.variable)
        return sorted(found)

    def template_of(self, method: str, path: str) -> str | None:
        """The template of the route that answers a request, if there is one."""
        segments = path.strip("/").split("/")
        found = self._find(segments) if len(segments) <= MAX_SEGMENTS else None
        route = None if found is None else found[0].routes.get(method)
        return None if route is None else route[4]

    def _find(self, segments: list[str]) -> tuple[_Node, list[str]] | None:
        """The node of a path and the values of its variables; a literal goes before a variable."""
        node, values = self._root, list[str]()
        #: Where a variable could have been taken instead of a literal: (place, node, values so far).
        forks: list[tuple[int, _Node, list[str]]] = []
        index = 0
        while True:
            if index == len(segments):
                if node.routes:
                    return node, values
            else:
                segment = segments[index]
                literal = node.literals.get(segment)
                if literal is not None:
                    if node.variable is not None:
                        forks.append((index + 1, node.variable, [*values, segment]))
                    node, index = literal, index + 1
                    continue
                if node.variable is not None:
                    values.append(segment)
                    node, index = node.variable, index + 1
                    continue
            if not forks:
                return None
            index, node, values = forks.pop()

    async def handle(self, request: Request) -> Response:
        """Answer a request. Never raises but for cancellation."""
        call: Call | None = None
        try:
            handler, guard, call = self._route(request)
            if guard is not None:
                await guard(call)
            response = await handler(call)
        except Exception as error:  # noqa: BLE001 - whatever it was: an answer
            response = _told(request, error)
        finally:
            if call is not None and call.at_end is not None:
                call.at_end()
        return _opened(request, response)

    def at_once(self, request: Request, waiter: Waiter) -> Response | Waiting | None:
        """Answer a request, or let it wait, without a task; None if `handle` must. Never raises."""
        found = self._at_once.get(request.path)
        if found is None or request.method != "GET" or found[0] not in request.serves:
            return None
        try:
            return found[2](Call(request, _NO_PARAMETERS, found[1]), waiter)
        except MatrixError:
            return None  # `handle` tells it
        except Exception:  # noqa: BLE001 - an error here must cost nobody an answer
            _log.exception("unexpected error in %s %s, before its task", request.method, request.path)
            return None

    async def finish(self, request: Request, answering: Awaitable[Response]) -> Response:
        """The answer to a request that `at_once` let wait. Never raises but for cancellation."""
        try:
            response = await answering
        except Exception as error:  # noqa: BLE001 - whatever it was: an answer
            response = _told(request, error)
        return _opened(request, response)

    def _route(self, request: Request) -> tuple[Handler, Guard | None, Call]:
        """Who answers a request, and whom to ask before. Raises 404 or 405 M_UNRECOGNIZED, 400."""
        if request.method == "OPTIONS":
            # Also where there is nothing: a browser that is refused here never learns of the 404.
            return _preflight, None, Call(request, _NO_PARAMETERS)
        literal = self._literal.get(request.path)
        values: Sequence[str] = ()
        if literal is None:
            segments = request.path.strip("/").split("/")
            found = self._find(segments) if len(segments) <= MAX_SEGMENTS else None
            if found is None:
                raise MatrixError(404, "M_UNRECOGNIZED", "No such endpoint")
            literal, values = found
        node = literal
        method = "GET" if request.method == "HEAD" and "HEAD" not in node.routes else request.method
        route = node.routes.get(method)
        if route is None:
            raise WrongMethodError(request.method, node.routes)
        handler, guard, names, serves, template = route
        if serves not in request.serves:
            raise MatrixError(404, "M_UNRECOGNIZED", "No such endpoint on this listener")
        return handler, guard, Call(request, _named(names, values) if values else _NO_PARAMETERS, template)


def _told(request: Request, error: Exception) -> Response:
    """The answer that tells an error, which the log has as far as it concerns the operator."""
    if not isinstance(error, MatrixError):
        _log.error("unexpected error in %s %s", request.method, request.path, exc_info=error)
        return error_response(MatrixError(500, "M_UNKNOWN", "Internal server error"))
    if error.status >= 500:
        _log.warning("%s %s: %s", request.method, request.path, error)
    else:
        _log.debug("%s %s: %s", request.method, request.path, error)
    return error_response(error)


def _opened(request: Request, response: Response) -> Response:
    """An answer that scripts of other sites may read, unless it is a page: what has a policy of its own."""
    if "client" in request.serves and "Content-Security-Policy" not in response.headers:
        response.headers.update(CORS_HEADERS)
    return response


async def _preflight(_: Call) -> Response:
    """client-server §Web Browser Clients."""
    return json_response({})
