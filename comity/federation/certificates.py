"""TLS client certificates: whether one belongs to the server that signs a request.

server-server §Client TLS Certificates: a server may present one, and it may be held against the
server's own. That it is vouched for by an authority that we trust, or is itself one that we were
told to trust, the handshake has made sure of before. Here it is asked whose it is.
"""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass

from cryptography import x509

from comity.federation.errors import FederationError
from comity.federation.key_calls import KeyCalls
from comity.ports import Clock
from comity.protocol import identifiers
from comity.protocol.errors import MatrixError, unauthorized
from comity.protocol.signing import parse_key_document_v1
from comity.store.cache import Bounded

_log = logging.getLogger(__name__)
#: Servers whose published certificate is remembered, about 2 KiB each.
MAX_REMEMBERED = 2_000
#: How long it is remembered; that there is none, or another than was presented, for a shorter time.
PUBLISHED_MS = 3_600_000
DOUBTFUL_MS = 300_000
#: Names of a certificate that are looked at; more are on certificates of hosting firms alone.
MAX_NAMES = 1_000


@dataclass(frozen=True, slots=True)
class _Published:
    """The DER of what a server says is its certificate, if it does, and when it said so (monotonic, s)."""

    certificate: bytes | None
    at: float


class ClientCertificates:
    """Holds client certificates against servers' names and what they publish."""

    def __init__(self, calls: KeyCalls, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._published: Bounded[str, _Published] = Bounded(MAX_REMEMBERED)

    async def check(self, origin: str, certificate: bytes) -> None:
        """Whether `certificate` (DER) is the origin's; the signature of the request must hold already.

        It is if it is valid for the origin's name, or exactly the one that the origin publishes at
        /_matrix/key/v1. Raises MatrixError 401 M_UNAUTHORIZED if it is neither.
        """
        if is_valid_for(certificate, origin):
            return
        known = self._published.get(origin)
        age = None if known is None else (self._clock.monotonic() - known.at) * 1000
        if known is not None and age is not None:
            if known.certificate == certificate and age < PUBLISHED_MS:
                return
            if age < DOUBTFUL_MS:
                raise _refused(origin)
        published = await self._fetch(origin)
        self._published.put(origin, _Published(published, self._clock.monotonic()))
        if published != certificate:
            raise _refused(origin)

    async def _fetch(self, origin: str) -> bytes | None:
        try:
            document, connected_with = await self._calls.server_keys_v1(origin, even_if_backing_off=True)
            parse_key_document_v1(document, origin, connected_with)
        except (FederationError, ValueError) as error:
            _log.info("%s publishes no certificate: %s", origin, error)
            return None
        return connected_with


def _refused(origin: str) -> MatrixError:
    return unauthorized(
        f"The TLS client certificate is neither valid for {origin} nor the one that {origin} publishes"
    )


def is_valid_for(certificate: bytes, server: str) -> bool:
    """Whether a certificate (DER) names the host of `server` (RFC 6125: by subjectAltName alone)."""
    try:
        names = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        host, _ = identifiers.parse_server_name(server)
        literal = identifiers.ip_literal(host)
        if literal is not None:
            address = ipaddress.ip_address(literal)
            return address in names.value.get_values_for_type(x509.IPAddress)[:MAX_NAMES]
        candidates = names.value.get_values_for_type(x509.DNSName)[:MAX_NAMES]
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False
    host = host.removesuffix(".").lower()
    _, _, parent = host.partition(".")
    # A wildcard stands for exactly one label, and not right under a top-level domain.
    accepted = {host, f"*.{parent}"} if "." in parent else {host}
    return any(name.lower() in accepted for name in candidates)
