"""`comity serve` and certificates: those of both sides are read before anybody is served."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import pytest

from tests.cli.test_serve import configuration, refusal, serving
from tests.federation.peer_server import padded
from tests.net.authority import Authority, Issued

TLS = """
tls = true
client_certificates = true
[tls]
certificate = "{0.certificate}"
private_key = "{0.private_key}"
[federation]
trusted_ca = ["{1}"]
client_certificate = "{0.certificate}"
client_private_key = "{2}"
"""


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def issued(issuer: Authority) -> Issued:
    return issuer.issue(["localhost"])


async def test_it_asks_for_a_certificate_and_publishes_its_own(
    tmp_path: Path, issuer: Authority, issued: Issued
) -> None:
    config, port = await configuration(tmp_path, TLS.format(issued, issuer.ca, issued.private_key))
    known = ssl.create_default_context(cafile=str(issuer.ca))
    with_one = ssl.create_default_context(cafile=str(issuer.ca))
    with_one.load_cert_chain(issued.certificate, issued.private_key)
    async with serving(config):
        for context in (known, with_one):
            reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
            writer.write(b"GET /_matrix/key/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert padded(json.loads(body)["tls_certificate"]) == issued.der
            writer.close()
            await writer.wait_closed()


async def test_files_that_cannot_be_used(tmp_path: Path, issuer: Authority, issued: Issued) -> None:
    missing = tmp_path / "missing.pem"
    config, _ = await configuration(tmp_path, TLS.format(issued, issuer.ca, missing))
    code, said = await refusal(config)
    assert code != 0 and "federation.client_certificate" in said and "Traceback" not in said
    config, _ = await configuration(tmp_path, TLS.format(issued, missing, issued.private_key))
    code, said = await refusal(config)
    assert code != 0 and "federation.trusted_ca" in said and "Traceback" not in said
    text = TLS.format(issued, issuer.ca, issued.private_key)
    config, _ = await configuration(tmp_path, f'{text}tls_certificate = "missing.pem"\n')
    code, said = await refusal(config)
    assert code != 0 and "missing.pem cannot be read" in said and "Traceback" not in said
