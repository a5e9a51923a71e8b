"""Certificates for a start: one signed by itself for `comity init`, a private authority for `comity demo`.

Makes certificates and never judges one: that is TLS, in `comity.net`. Real ones come from a real
authority (docs/running.md).
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: A certificate signed by itself is for a start; a year is ample to get a real one.
SELF_SIGNED_VALIDITY = datetime.timedelta(days=365)
#: A demonstration may be left running for a while, and its authority should die with it.
DEMO_VALIDITY = datetime.timedelta(days=30)
#: So that a peer whose clock is behind takes it too.
BACKDATED = datetime.timedelta(hours=1)
#: The longest common name that X.509 allows; the names that count are the alternative ones.
MAX_COMMON_NAME = 64


class Certificate:
    """A certificate and its private key."""

    def __init__(self, certificate: x509.Certificate, private_key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._private_key = private_key

    @property
    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def private_key_pem(self) -> bytes:
        """The private key in PEM, not encrypted."""
        return self._private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def issue(self, hosts: Sequence[str], now: datetime.datetime) -> Certificate:
        """A certificate for `hosts` (DNS names or IP literals), signed by this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _for_hosts(hosts, key, self._certificate.subject, now, DEMO_VALIDITY)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._private_key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        return Certificate(builder.sign(self._private_key, hashes.SHA256()), key)


def self_signed(hosts: Sequence[str], now: datetime.datetime) -> Certificate:
    """A certificate for `hosts` that nobody vouches for but itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _for_hosts(hosts, key, _name(hosts[0]), now, SELF_SIGNED_VALIDITY)
    return Certificate(builder.sign(key, hashes.SHA256()), key)


def authority(name: str, now: datetime.datetime) -> Certificate:
    """A certificate authority: trusted by whoever is told to trust its certificate, and nobody else."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(_name(name), _name(name), key, now, DEMO_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return Certificate(builder.sign(key, hashes.SHA256()), key)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:MAX_COMMON_NAME])])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    validity: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + validity)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _for_hosts(
    hosts: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    now: datetime.datetime,
    validity: datetime.timedelta,
) -> x509.CertificateBuilder:
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return (
        _builder(_name(hosts[0]), issuer, key, now, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_alternative_name(host) for host in hosts]), critical=False
        )
    )


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
