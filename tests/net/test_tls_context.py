"""Whom we trust in TLS: the machine's authorities, read once, and those that the operator names."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from comity.net import tls_context
from comity.net.tls_context import client_ssl_context
from tests.net.authority import Authority


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that knows no authority yet: its file is at `certs.pem`, its folder `certs`."""
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs.pem").write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certs.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "certs"))
    return tmp_path


def trusted(context: ssl.SSLContext) -> int:
    return context.cert_store_stats()["x509_ca"]


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    (tmp_path / "ours").mkdir()
    return Authority(tmp_path / "ours").ca


def test_the_file_of_the_machine_is_read(machine: Path, ca: Path) -> None:
    (machine / "certs.pem").write_bytes(ca.read_bytes())
    assert trusted(client_ssl_context([], None)) == 1


def test_the_folder_of_the_machine_is_read_and_no_more_looked_into(machine: Path, ca: Path) -> None:
    (machine / "certs" / "real.pem").write_bytes(ca.read_bytes())
    (machine / "certs" / "0123abcd.0").symlink_to("real.pem")
    (machine / "certs" / "4567abcd.0").symlink_to("real.pem")
    context = client_ssl_context([], None)
    # What a folder holds that OpenSSL looks into is not counted before it was found there.
    assert trusted(context) == 1


def test_what_cannot_be_read_keeps_no_other_from_being_known(
    machine: Path, ca: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (machine / "certs.pem").write_text("no certificate")
    (machine / "certs" / "00000000.0").write_text("-----BEGIN CERTIFICATE-----\nnone\n")
    (machine / "certs" / "11111111.0").symlink_to("nowhere")
    (machine / "certs" / "22222222.0").write_bytes(b"\xff\x00")
    (machine / "certs" / "33333333.0").write_bytes(ca.read_bytes())
    assert trusted(client_ssl_context([], None)) == 1
    assert "certs.pem" in caplog.text


def test_a_machine_without_any(machine: Path, ca: Path) -> None:
    (machine / "certs.pem").unlink()
    (machine / "certs").rmdir()
    assert trusted(client_ssl_context([], None)) == 0
    assert trusted(client_ssl_context([ca], None)) == 1
    with pytest.raises(FileNotFoundError):
        client_ssl_context([machine / "nowhere"], None)


def test_what_servers_are_held_to(machine: Path) -> None:
    context = client_ssl_context([], None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert not context.hostname_checks_common_name
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert tls_context.client_ssl_context([], None, verify=False).verify_mode is ssl.CERT_NONE
