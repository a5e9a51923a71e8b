"""One connection to one address, looked at closely: for the operator who asks why it does not work.

Owns the trying of a single address and the reading of the certificate that is shown there, also of one
that does not hold. It asks nothing over the connection and judges no server; nothing but the
operator's own commands uses it.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import NameOID

from comity.net.addresses import AddressGuard
from comity.net.lookup import SystemLookup
from comity.net.tls_context import client_ssl_context

#: Seconds for TCP and again for TLS to one address: who does not answer by then is of no use to anybody.
PROBE_SECONDS = 10.0
#: Names of a certificate that are told; certificates of hosting firms have hundreds.
MAX_NAMES = 100
#: Certificates of a chain that are read.
MAX_CHAIN = 10

#: Bytes of a server's first answer that are read for its chain; the longest chains have some 20 KiB.
MAX_HELLO_BYTES = 128 * 1024
#: TLS's numbers (RFC 5246): the record of a handshake, and its message that holds certificates.
_HANDSHAKE_RECORD, _CERTIFICATE_MESSAGE = 22, 11

Outcome = Literal[
    "ok", "refused", "unreachable", "timed out", "not allowed", "no tls", "not trusted", "wrong name"
]

#: OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_NAME_MISMATCH = frozenset({62, 64})


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says. Times are ms since the epoch."""

    subject: str
    names: tuple[str, ...]
    issuer: str
    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class Probe:
    """How one address behaved. `text` says what went wrong, as the system or TLS says it."""

    address: str
    outcome: Outcome
    text: str = ""
    #: OpenSSL's number of what is wrong with the certificate; 0 if nothing is.
    verify_code: int = 0
    tls_version: str = ""
    #: The chain as it was sent, the server's own certificate first. A server that speaks nothing older
    #: than TLS 1.3 hides the others from Python before 3.13.
    chain: tuple[Certificate, ...] = ()
    #: The DER of the server's own certificate.
    certificate: bytes = b""


class TlsProber:
    """Connects to single addresses as `http_client` would, and says how it went."""

    def __init__(
        self,
        *,
        trusted_ca: Sequence[Path],
        allow_ranges: Sequence[str],
        client_certificate: tuple[Path, Path] | None = None,
    ) -> None:
        """Takes what `HttpsTransport` takes. Raises OSError for a file that cannot be used."""
        self._guard = AddressGuard(allow_ranges)
        self._lookup = SystemLookup()
        self._verifying = client_ssl_context(trusted_ca, client_certificate)
        self._looking = client_ssl_context([], client_certificate, verify=False)

    async def addresses(self, host: str) -> list[str]:
        """The IPv4 and IPv6 addresses of a name, or the literal itself. Raises OSError."""
        return list(dict.fromkeys(address for address, _ in await self._lookup.resolve(host, 0)))

    async def probe(self, address: str, port: int, tls_name: str) -> Probe:
        """Connect to one address; `tls_name` is what the certificate must be valid for."""
        if not self._guard.allows(address):
            return Probe(address, "not allowed", "the address is private or reserved")
        try:
            return await self._attempt(address, port, tls_name, self._verifying)
        except ssl.SSLCertVerificationError as error:
            outcome: Outcome = "wrong name" if error.verify_code in _NAME_MISMATCH else "not trusted"
            seen = await self._look(address, port, tls_name)
            return Probe(
                address, outcome, error.verify_message, error.verify_code,
                seen.tls_version, seen.chain, seen.certificate,
            )  # fmt: skip
        except (OSError, TimeoutError) as error:
            return _failed(address, error)

    async def _look(self, address: str, port: int, tls_name: str) -> Probe:
        """The certificate at an address, whatever it is worth."""
        try:
            return await self._attempt(address, port, tls_name, self._looking)
        except (OSError, TimeoutError) as error:
            return _failed(address, error)

    async def _attempt(self, address: str, port: int, tls_name: str, context: ssl.SSLContext) -> Probe:
        async with asyncio.timeout(PROBE_SECONDS):
            _, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname=tls_name)
        try:
            tls = writer.get_extra_info("ssl_object")
            assert isinstance(tls, ssl.SSLObject)
            certificate = tls.getpeercert(binary_form=True) or b""
            # Since Python 3.13 the whole chain is told; before, it is read off another connection.
            told = getattr(tls, "get_unverified_chain", None)
            chain = await self._sent_chain(address, port, tls_name) if told is None else told()
            if not chain or chain[0] != certificate:
                chain = [certificate]
            read = tuple(_read(der) for der in chain[:MAX_CHAIN])
            return Probe(address, "ok", tls_version=tls.version() or "", chain=read, certificate=certificate)
        finally:
            writer.transport.abort()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    async def _sent_chain(self, address: str, port: int, tls_name: str) -> list[bytes]:
        """The chain (DER) that a server sends first of all and in the clear, up to TLS 1.2; or nothing."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        hello = ssl.MemoryBIO()
        tls = context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname=tls_name)
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            pass  # the greeting is written, and that is all that is said here
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                reader, writer = await asyncio.open_connection(address, port)
                try:
                    writer.write(hello.read())
                    answer = b""
                    while len(answer) < MAX_HELLO_BYTES and (data := await reader.read(16 * 1024)):
                        answer += data
                        if chain := certificates_in(answer):
                            return chain
                finally:
                    writer.transport.abort()
                    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        except (OSError, TimeoutError):
            pass
        return []


def certificates_in(answer: bytes) -> list[bytes]:
    """The certificates (DER) in the beginning of a server's side of TLS 1.2; none until they are whole."""
    messages, position = b"", 0
    while position + 5 <= len(answer) and answer[position] == _HANDSHAKE_RECORD:
        length = int.from_bytes(answer[position + 3 : position + 5], "big")
        messages += answer[position + 5 : position + 5 + length]
        position += 5 + length
    position = 0
    while position + 4 <= len(messages):
        body = messages[
            position + 4 : position + 4 + int.from_bytes(messages[position + 1 : position + 4], "big")
        ]
        if messages[position] == _CERTIFICATE_MESSAGE:
            return _listed(body)
        position += 4 + int.from_bytes(messages[position + 1 : position + 4], "big")
    return []


def _listed(body: bytes) -> list[bytes]:
    found: list[bytes] = []
    position = 3
    if len(body) < 3 or len(body) < 3 + int.from_bytes(body[:3], "big"):
        return []
    while position + 3 <= len(body) and len(found) < MAX_CHAIN:
        length = int.from_bytes(body[position : position + 3], "big")
        found.append(body[position + 3 : position + 3 + length])
        position += 3 + length
    return found


def _failed(address: str, error: OSError) -> Probe:
    """What an error of the system or of TLS means; TimeoutError is an OSError."""
    if isinstance(error, ssl.SSLError):
        return Probe(address, "no tls", (error.reason or str(error)).replace("_", " ").lower())
    if isinstance(error, ConnectionRefusedError):
        return Probe(address, "refused", "nobody listens there")
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return Probe(address, "timed out", f"no answer within {PROBE_SECONDS:g} s")
    if isinstance(error, ConnectionError):
        return Probe(address, "no tls", "the connection was closed during the TLS handshake")
    return Probe(address, "unreachable", error.strerror or str(error))


def _read(der: bytes) -> Certificate:
    """What a certificate says; as little as can be read, for broken ones are shown as well."""
    try:
        loaded = x509.load_der_x509_certificate(der)
        return Certificate(
            _name(loaded.subject),
            _names(loaded),
            _name(loaded.issuer),
            round(loaded.not_valid_before_utc.timestamp() * 1000),
            round(loaded.not_valid_after_utc.timestamp() * 1000),
        )
    except ValueError:
        return Certificate("unreadable", (), "unreadable", 0, 0)


def _names(loaded: x509.Certificate) -> tuple[str, ...]:
    try:
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return ()
    texts = [*names.get_values_for_type(x509.DNSName)]
    texts += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return tuple(texts[:MAX_NAMES])


def _name(name: x509.Name) -> str:
    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        found = name.get_attributes_for_oid(oid)
        if found:
            return str(found[0].value)
    return name.rfc4514_string() or "no name"
