"""What went wrong with an exchange, in words for the operator.

Owns the translation of HTTP's, TLS's and the system's errors into one sentence.
Never includes the path or query of a request, where secrets may be.
"""

from __future__ import annotations

import errno
import ssl

from comity.net.client_connection import BrokenOff, Disconnected, HandshakeFailed
from comity.net.client_pool import AddressNotAllowed, ConnectFailed, ConnectTimedOut, NameNotFound
from comity.net.http_answer import NoHttp

#: OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_NAME_MISMATCH = frozenset({62, 64})

_CONNECT_TEXTS = {
    errno.ECONNREFUSED: "connection refused by {where}",
    errno.ECONNRESET: "{where} reset the connection",
    errno.ENETUNREACH: "no route to the network of {where}",
    errno.EHOSTUNREACH: "no route to {where}",
    errno.ETIMEDOUT: "could not connect to {where} in time",
}


def explain(error: BaseException, where: str, tls_name: str) -> str:
    """One sentence on `error`, met in an exchange with `where` ("host:port") as `tls_name`."""
    match error:
        case HandshakeFailed(args=(ssl.CertificateError() as certificate,)):
            return _certificate(certificate, where, tls_name)
        case HandshakeFailed(args=(reason,)):
            return f"the TLS handshake with {where} failed: {_tls_reason(reason)}"
        case NameNotFound(args=(reason,)):
            return f"the name of {where} was not found: {_system_reason(reason)}"
        case AddressNotAllowed():
            return f"not connecting to {where}: {error}"
        case ConnectFailed(args=(reason,)):
            return _connect(reason, where)
        case ConnectTimedOut():
            return f"could not connect to {where} in time"
        case Disconnected(args=(OSError() as reason,)):
            return f"the connection to {where} was lost: {_system_reason(reason)}"
        case Disconnected():
            return f"{where} closed the connection without an answer"
        case BrokenOff():
            return f"{where} broke off in the middle of its answer"
        case NoHttp():
            return f"{where} did not answer with valid HTTP: {error}"
        case ssl.SSLError():
            return f"the connection to {where} was lost: {_tls_reason(error)}"
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
    known = None if error.errno is None else _CONNECT_TEXTS.get(error.errno)
    if known is not None:
        return known.format(where=where)
    return f"could not connect to {where}: {_system_reason(error)}"


def _tls_reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return reason.replace("_", " ").lower() if reason else _system_reason(error)


def _system_reason(error: Exception) -> str:
    told = error.strerror if isinstance(error, OSError) else None
    return told or str(error) or type(error).__name__
