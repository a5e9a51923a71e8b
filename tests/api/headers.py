"""Headers as a connection hands them on: one object for all requests of a program that sends the same."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

from comity.api.router import Router
from comity.ports import Headers

_SENT: WeakKeyDictionary[Router, dict[tuple[tuple[str, str], ...], Headers]] = WeakKeyDictionary()


def headers_of(router: Router, headers: Mapping[str, str], token: str | None) -> Headers:
    """The headers of a request by who has that token, the same object as for the one before."""
    sent = {**headers, **({"authorization": f"Bearer {token}"} if token else {})}
    known = _SENT.setdefault(router, {})
    key = tuple(sent.items())
    if key not in known:
        known[key] = Headers()
        known[key].update(sent)
    return known[key]
