"""Where a request really came from, when a reverse proxy stands before this server.

The address is for rate limits and for what users see of their devices, never for permission.
"""

from __future__ import annotations

import functools
import ipaddress

from comity.ports import Request

#: What `Request.remote` says of a UNIX socket.
UNIX_SOCKET = "unix"


def client_address(request: Request) -> str:
    """The peer's address, or, if the peer is a proxy on this machine, whom that names.

    Only a proxy that comes over loopback or a UNIX socket is believed, and of its
    `X-Forwarded-For` only the last address: the one that it added itself.
    """
    peer = _address(request.remote)
    if request.remote != UNIX_SOCKET and (peer is None or not peer.is_loopback):
        return request.remote
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    named = _address(forwarded)
    return request.remote if named is None else str(named)


#: Texts whose reading is remembered: the same few peers come with every request.
MAX_REMEMBERED_ADDRESSES = 4_096


@functools.lru_cache(maxsize=MAX_REMEMBERED_ADDRESSES)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
