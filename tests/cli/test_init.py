"""`comity init`: what it writes is what `comity serve` reads."""

from __future__ import annotations

import ipaddress
import ssl
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from comity.cli import main
from comity.config import documented_keys, load, loads, signing_key


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    result = run("init", "example.org", "--dir", str(tmp_path / "server"))
    assert result.exit_code == 0, result.output
    return tmp_path / "server"


def test_it_says_what_to_do_next(tmp_path: Path) -> None:
    output = run("init", "example.org", "--dir", str(tmp_path)).output
    assert f"comity serve --config {tmp_path / 'comity.toml'}" in output
    assert "comity user add NAME --admin" in output


def test_the_configuration_is_right(made: Path) -> None:
    config = load(made / "comity.toml")
    assert config.server_name == "example.org"
    assert config.data_dir == made / "data"
    assert {listener.bind.partition(":")[0] for listener in config.listeners} == {"127.0.0.1"}
    assert not config.registration.enabled
    assert config.registration.shared_secret is None


def test_every_key_stands_in_it_and_may_be_uncommented(made: Path) -> None:
    lines = (made / "comity.toml").read_text().splitlines()
    keys = {key.name for key in documented_keys()}
    uncommented = [
        line.removeprefix("# ") if line.removeprefix("# ").partition(" = ")[0] in keys else line
        for line in lines
    ]
    uncommented = [line.removeprefix("# ") if line.startswith("# [") else line for line in uncommented]
    table = tomllib.loads("\n".join(uncommented))
    for key in documented_keys():
        found: Any = table
        for name in key.section.split(".") if key.section else ():
            found = found[name]
        assert key.name in (found[0] if isinstance(found, list) else found), key.full_name
    assert loads("\n".join(uncommented), made).caches.megabytes == 256


def test_the_suggested_secret_is_different_each_time(tmp_path: Path) -> None:
    suggested = set()
    for name in ("a", "b"):
        run("init", "example.org", "--dir", str(tmp_path / name))
        text = (tmp_path / name / "comity.toml").read_text()
        suggested |= {line for line in text.splitlines() if line.startswith("# shared_secret")}
    assert len(suggested) == 2


def test_secrets_are_for_their_owner_alone(made: Path) -> None:
    for name in ("comity.toml", "data/signing.key", "private_key.pem"):
        assert (made / name).stat().st_mode & 0o777 == 0o600, name
    assert (made / "data").stat().st_mode & 0o777 == 0o700


def test_the_signing_key(made: Path) -> None:
    key = signing_key.read(made / "data" / "signing.key")
    assert key.key_id.startswith("ed25519:a_")
    assert len(key.key_id) == len("ed25519:a_") + 4


def test_the_certificate_is_for_the_name_and_fits_its_key(made: Path) -> None:
    certificate = x509.load_pem_x509_certificate((made / "certificate.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["example.org"]
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
        made / "certificate.pem", made / "private_key.pem"
    )


@pytest.mark.parametrize("name", ["[2001:db8::1]:8448", "192.0.2.7"])
def test_a_server_that_is_an_address(tmp_path: Path, name: str) -> None:
    assert run("init", name, "--dir", str(tmp_path)).exit_code == 0
    certificate = x509.load_pem_x509_certificate((tmp_path / "certificate.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(name.partition("]")[0].strip("["))
    ]
    assert load(tmp_path / "comity.toml").server_name == name


@pytest.mark.parametrize(
    "existing", ["comity.toml", "data/signing.key", "certificate.pem", "private_key.pem"]
)
def test_nothing_is_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).parent.mkdir(exist_ok=True)
    (tmp_path / existing).write_text("mine")
    result = run("init", "example.org", "--dir", str(tmp_path))
    assert result.exit_code == 1
    assert existing in result.output
    assert (tmp_path / existing).read_text() == "mine"
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_name_that_cannot_be(tmp_path: Path) -> None:
    result = run("init", "exa mple", "--dir", str(tmp_path))
    assert result.exit_code == 2
    assert "SERVER_NAME" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = run("init", "example.org", "--dir", str(tmp_path / "file" / "server"))
    assert result.exit_code == 1
    assert "cannot be written: Not a directory" in result.output
