"""The TLS certificate that is published: which one it is, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.config import Config, ConfigError, loads, published_certificate
from tests.net.authority import Authority, Issued

TLS = """
[tls]
certificate = "{0.certificate}"
private_key = "{0.private_key}"
"""


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def issued(issuer: Authority) -> Issued:
    return issuer.issue(["example.org"])


def config(text: str, directory: Path) -> Config:
    return loads(f'server_name = "example.org"\n{text}', directory)


@pytest.mark.parametrize(
    ("listener", "known"),
    [("tls = true", True), ("tls = false", False), ('tls = true\nserves = ["client"]', False)],
)
def test_that_of_a_listener_for_other_servers(
    tmp_path: Path, issued: Issued, listener: str, known: bool
) -> None:
    tree = config(f"[[listeners]]\n{listener}\n{TLS.format(issued)}", tmp_path)
    assert published_certificate.read(tree) == (issued.der if known else None)


def test_that_of_a_proxy_before_any_other(tmp_path: Path, issuer: Authority, issued: Issued) -> None:
    other = issuer.issue(["example.org"])
    text = f'[[listeners]]\ntls = true\n{TLS.format(issued)}\n[federation]\ntls_certificate = "chain.pem"\n'
    chain = b"some words before\n" + other.certificate.read_bytes() + issued.certificate.read_bytes()
    (tmp_path / "chain.pem").write_bytes(chain)
    assert published_certificate.read(config(text, tmp_path)) == other.der


def test_without_any(tmp_path: Path) -> None:
    assert published_certificate.read(config("", tmp_path)) is None


@pytest.mark.parametrize(
    "data",
    [None, b"", b"words", b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----",
     b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----"],
)  # fmt: skip
def test_a_file_that_cannot_be_used(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "chain.pem").write_bytes(data)
    tree = config('[federation]\ntls_certificate = "chain.pem"', tmp_path)
    with pytest.raises(ConfigError, match=r"chain\.pem (cannot be read|holds no certificate)"):
        published_certificate.read(tree)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[listeners]]\nclient_certificates = true", "needs tls = true beside it"),
        ('[federation]\nclient_certificate = "a.pem"', "need each other"),
        ('[federation]\nclient_private_key = "a.key"', "need each other"),
    ],
)
def test_settings_that_need_each_other(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config(text, tmp_path)
