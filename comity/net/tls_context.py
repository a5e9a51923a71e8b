"""What we hold other servers to in TLS: the version, the authorities, the certificate of our own.

Every authority is read into memory at once. OpenSSL would rather look for one in the system's folder when
it meets its name; but it looks for the issuer of every certificate in a chain there first, and does so by
reading through the whole folder: for a certificate with an intermediate above it, which is nearly every one,
that was a quarter of the time of a handshake.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Sequence
from pathlib import Path

_log = logging.getLogger(__name__)

#: Bytes of a file in the system's folder of authorities; one certificate is about two thousand.
_MAX_FILE_BYTES = 64 * 1024

#: The names that OpenSSL finds a certificate under: the hash of its subject, and a number.
_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]{1,4}")


def client_ssl_context(
    trusted_ca: Sequence[Path], client_certificate: tuple[Path, Path] | None, *, verify: bool = True
) -> ssl.SSLContext:
    """What other servers are held to: TLS 1.2 or newer, and a certificate for their name by the system's
    authorities or one of `trusted_ca`.

    `client_certificate` is shown to those who ask. Raises OSError when a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    # What the operator names is trusted, also where it is no authority but a server's certificate.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trust_the_system(context)
    for authority in trusted_ca:
        context.load_verify_locations(authority)
    if client_certificate is not None:
        context.load_cert_chain(*client_certificate)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def trust_the_system(context: ssl.SSLContext) -> None:
    """Read the authorities of the machine, those of its file and those of its folder.

    One that cannot be read is passed over, as OpenSSL does: it must not keep the others from being known.
    """
    paths = ssl.get_default_verify_paths()
    if paths.cafile is not None:
        try:
            context.load_verify_locations(paths.cafile)
        except OSError as error:
            _log.warning("the authorities in %s cannot be read: %s", paths.cafile, error)
    if paths.capath is not None:
        for file in _hashed_files(Path(paths.capath)):
            try:
                with file.open("rb") as opened:
                    text = opened.read(_MAX_FILE_BYTES).decode("ascii", "ignore")
                context.load_verify_locations(cadata=text)
            except (OSError, ValueError) as error:
                _log.debug("the authority in %s cannot be read: %s", file, error)


def _hashed_files(folder: Path) -> set[Path]:
    """The certificates in a folder; most are links, and some of those lead to one file."""
    try:
        return {file.resolve() for file in folder.iterdir() if _HASHED_NAME.fullmatch(file.name)}
    except OSError as error:
        _log.warning("the authorities in %s cannot be read: %s", folder, error)
        return set()
