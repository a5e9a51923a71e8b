"""TLS client certificates between two whole servers: each over real TLS, found through real DNS."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from comity.app import App, build
from comity.config import loads, signing_key
from comity.federation.certificates import is_valid_for
from comity.federation.errors import FederationError
from comity.net.http_client import HttpsTransport
from comity.net.http_server import HttpServer, server_ssl_context
from comity.net.system import SystemClock, SystemEntropy
from comity.ports import Ports
from tests.api.support_users import InlineOffload
from tests.engines import Pauses, engine, url_of
from tests.federation.world import WELL_KNOWN, Names
from tests.net.authority import Authority, Issued
from tests.net.name_server import name_server
from tests.net.peers import Connection, running_peer

__all__ = ["engine"]

CONFIGURATION = """
server_name = "{name}"
data_dir = "."
[[listeners]]
bind = "127.0.0.1:0"
tls = true
client_certificates = {asks}
[tls]
certificate = "{tls.certificate}"
private_key = "{tls.private_key}"
[database]
url = "{url}"
connections = 3
[federation]
trusted_ca = [{trusted}]
trusted_key_servers = []
allow_ranges = ["127.0.0.0/8"]
{client}
"""
CLIENT = """
client_certificate = "{0.certificate}"
client_private_key = "{0.private_key}"
"""


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("issuer"))


@dataclass
class Net:
    """Names, and the servers under them."""

    directory: Path
    names: Names
    zone: dict[str, Sequence[str]]
    stack: AsyncExitStack

    async def server(
        self, name: str, tls: Issued, *, client: Issued | None = None, trusted: Sequence[Path], asks: bool
    ) -> App:
        """A whole server, which listens and is found by its name (at the target of an SRV record)."""
        directory = self.directory / name
        directory.mkdir()
        (directory / "signing.key").write_text(signing_key.render("1", name.encode().ljust(32)))
        text = CONFIGURATION.format(
            name=name, asks=str(asks).lower(), tls=tls, url=url_of(directory),
            trusted=", ".join(f'"{file}"' for file in trusted),
            client="" if client is None else CLIENT.format(client),
        )  # fmt: skip
        config = loads(text, directory)
        certificate, key = config.federation.client_certificate, config.federation.client_private_key
        transport = HttpsTransport(
            trusted_ca=config.federation.trusted_ca,
            verify_certificates=True,
            allow_ranges=config.federation.allow_ranges,
            user_agent="comity-test",
            client_certificate=(certificate, key) if certificate and key else None,
            lookup=self.names,
        )
        await transport.open()
        self.stack.push_async_callback(transport.close)
        resolver, _ = await self.stack.enter_async_context(name_server(self.zone))
        ports = Ports(SystemClock(), SystemEntropy(), transport, resolver, InlineOffload(), Pauses(None))
        app = build(config, ports)
        self.stack.push_async_callback(app.stop)
        await app.start()
        server = HttpServer(app.handle, max_body_bytes=1 << 20)
        self.stack.push_async_callback(server.close, 0)
        (listener,) = config.listeners
        context = server_ssl_context(
            tls.certificate, tls.private_key, listener.client_certificates, config.federation.trusted_ca
        )
        address = await server.listen(listener.bind, listener.serves, context)
        self.names.table["srv.test", 9000 + len(self.zone)] = ("127.0.0.1", int(address.rpartition(":")[2]))
        self.zone[f"_matrix-fed._tcp.{name}"] = [f"1 1 {9000 + len(self.zone)} srv.test."]
        return app


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    async with AsyncExitStack() as stack:
        yield Net(tmp_path, Names(), {}, stack)


async def ask(app: App, server: str) -> FederationError:
    """Make a signed request for somebody whom that server does not know; its refusal."""
    with pytest.raises(FederationError) as caught:
        await app._federation.users.query_profile(server, f"@nobody:{server}", None)
    return caught.value


PASSED = (404, "M_NOT_FOUND")
REFUSED = (401, "M_UNAUTHORIZED")


async def outcome(
    net: Net,
    issuer: Authority,
    client: Issued | None,
    *,
    tls: Issued | None = None,
    trusted: Sequence[Path] = (),
) -> FederationError:
    """What a.test, which shows `client`, is told by b.test, which asks for a certificate."""
    for_a = tls or issuer.issue(["a.test"])
    a = await net.server("a.test", for_a, client=client, trusted=[issuer.ca], asks=False)
    both = [issuer.ca, *trusted]
    await net.server("b.test", issuer.issue(["b.test"]), trusted=both, asks=True)
    return await ask(a, "b.test")


async def test_without_a_certificate_a_request_goes_on_as_ever(net: Net, issuer: Authority) -> None:
    error = await outcome(net, issuer, None)
    assert (error.status, error.code) == PASSED


async def test_a_certificate_for_the_name_of_the_server(net: Net, issuer: Authority) -> None:
    error = await outcome(net, issuer, issuer.issue(["other.test", "a.test"]))
    assert (error.status, error.code) == PASSED


async def test_a_certificate_of_somebody_else(net: Net, issuer: Authority) -> None:
    error = await outcome(net, issuer, issuer.issue(["b.test", "other.test"]))
    assert (error.status, error.code) == REFUSED
    assert "neither valid for a.test nor the one that a.test publishes" in error.text


async def test_the_certificate_that_the_server_publishes(net: Net, issuer: Authority) -> None:
    # It is for the name that a.test delegates to, so its names say nothing of a.test.
    delegated = issuer.issue(["matrix.test"])

    async def document(connection: Connection) -> None:
        while b"GET " + WELL_KNOWN.encode() in await connection.request():
            await connection.answer(b'{"m.server":"matrix.test:443"}')

    web = await net.stack.enter_async_context(running_peer(document, issuer.issue(["a.test"])))
    net.names.table["a.test", 443] = ("127.0.0.1", web.port)
    a = await net.server("a.test", delegated, client=delegated, trusted=[issuer.ca], asks=False)
    net.names.table["matrix.test", 443] = net.names.table["srv.test", 9000]
    await net.server("b.test", issuer.issue(["b.test"]), trusted=[issuer.ca], asks=True)
    for _ in range(2):
        error = await ask(a, "b.test")
        assert (error.status, error.code) == PASSED


async def test_a_certificate_by_a_stranger_fails_the_handshake(
    net: Net, issuer: Authority, tmp_path: Path
) -> None:
    (tmp_path / "stranger").mkdir()
    error = await outcome(net, issuer, Authority(tmp_path / "stranger").issue(["a.test"]))
    assert error.status is None


async def test_a_certificate_that_is_signed_by_itself_and_trusted(
    net: Net, issuer: Authority, tmp_path: Path
) -> None:
    # As in 2014: one certificate for everything, named where others are to trust it.
    own = signed_by_itself(tmp_path, "a.test")
    a = await net.server("a.test", own, client=own, trusted=[issuer.ca], asks=False)
    trusted = [issuer.ca, own.certificate]
    await net.server("b.test", issuer.issue(["b.test"]), trusted=trusted, asks=True)
    error = await ask(a, "b.test")
    assert (error.status, error.code) == PASSED


async def test_one_that_is_signed_by_itself_and_trusted_is_still_somebodys(
    net: Net, issuer: Authority, tmp_path: Path
) -> None:
    other = signed_by_itself(tmp_path, "other.test")
    error = await outcome(net, issuer, other, trusted=[other.certificate])
    assert (error.status, error.code) == REFUSED


def signed_by_itself(directory: Path, name: str) -> Issued:
    """A certificate that nobody vouches for but itself, and that vouches for nobody else."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    issued = Issued(directory / f"{name}.pem", directory / f"{name}.key")
    issued.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    issued.private_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return issued


@pytest.mark.parametrize(
    ("names", "server", "valid"),
    [
        (["a.test"], "a.test", True),
        (["a.test"], "a.test:8448", True),
        (["A.Test"], "a.tEST", True),
        (["b.test", "a.test"], "a.test", True),
        (["a.test"], "b.a.test", False),
        (["*.a.test"], "b.a.test", True),
        (["*.a.test"], "c.b.a.test", False),
        (["*.a.test"], "a.test", False),
        (["*.test"], "a.test", False),
        (["b*.a.test"], "b1.a.test", False),
        (["127.0.0.1"], "127.0.0.1:8448", True),
        (["127.0.0.1"], "127.0.0.2", False),
        (["::1"], "[::1]:8448", True),
        ([], "nobody", False),
    ],
)
def test_the_names_of_a_certificate(issuer: Authority, names: list[str], server: str, valid: bool) -> None:
    assert is_valid_for(issuer.issue(names).der, server) is valid


def test_what_is_no_certificate_is_valid_for_nobody() -> None:
    assert not is_valid_for(b"", "a.test")
    assert not is_valid_for(b"\x30\x03\x02\x01\x01", "a.test")
