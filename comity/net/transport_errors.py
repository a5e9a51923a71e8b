"""What went wrong with an exchange, in words for the operator.

Owns the translation of the library's, TLS's and the system's errors into one sentence.
Never includes the path or query of a request, where secrets may be.
"""

from __future__ import annotations

import errno
import ssl

import aiohttp

#: OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_NAME_MISMATCH = frozenset({62, 64})

_CONNECT_TEXTS = {
    errno.ECONNREFUSED: "connection refused by {where}",
    errno.ECONNRESET: "{where} reset the connection",
    errno.ENETUNREACH: "no route to the network of {where}",
    errno.EHOSTUNREACH: "no route to {where}",
    errno.ETIMEDOUT: "could not connect to {where} in time",
}


class AddressNotAllowed(OSError):
    """The address is not one this server connects to."""

    def __init__(self, address: str) -> None:
        super().__init__(f"the address {address} is private or reserved, and not in the allowed ranges")


def explain(error: BaseException, where: str, tls_name: str) -> str:
    """One sentence on `error`, met in an exchange with `where` ("host:port") as `tls_name`."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return _certificate(error.certificate_error, where, tls_name)
        case aiohttp.ClientConnectorSSLError():
            return f"the TLS handshake with {where} failed: {_tls_reason(error.os_error)}"
        case aiohttp.ClientConnectorDNSError():
            return f"the name of {where} was not found: {_system_reason(error.os_error)}"
        case aiohttp.ClientConnectorError():
            return _connect(error.os_error, where)
        case aiohttp.ConnectionTimeoutError():
            return f"could not connect to {where} in time"
        case aiohttp.ServerDisconnectedError():
            return f"{where} closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return f"{where} broke off in the middle of its answer"
        case aiohttp.ClientResponseError():
            return f"{where} did not answer with valid HTTP: {error.message}"
        case OSError():
            return f"the connection to {where} was lost: {_system_reason(error)}"
        case _:
            return f"the exchange with {where} failed: {type(error).__name__}"


def _certificate(error: Exception, where: str, tls_name: str) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {where} could not be checked: {error}"
    if error.verify_code in _NAME_MISMATCH:
        return f"the certificate of {where} is not valid for {tls_name}"
    return f"the certificate of {where} is not trusted: {error.verify_message}"


def _connect(error: OSError, where: str) -> str:
    if isinstance(error, AddressNotAllowed):
        return f"not connecting to {where}: {error}"
    known = None if error.errno is None else _CONNECT_TEXTS.get(error.errno)
    if known is not None:
        return known.format(where=where)
    return f"could not connect to {where}: {_system_reason(error)}"


def _tls_reason(error: OSError) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return reason.replace("_", " ").lower() if reason else _system_reason(error)


def _system_reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
