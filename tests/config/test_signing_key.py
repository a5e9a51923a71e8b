"""The file of the signing key."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.config import ConfigError, signing_key
from comity.protocol.signing import SigningKey

SEED = bytes(range(32))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "signing.key"
    file.write_text(signing_key.render("a_Xy9Z", SEED))
    key = signing_key.read(file)
    assert key.key_id == "ed25519:a_Xy9Z"
    assert key.public == SigningKey("a_Xy9Z", SEED).public


def test_the_form_of_the_file() -> None:
    text = signing_key.render("a_1234", SEED)
    assert text == "ed25519 a_1234 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519 a_1",
        "rsa a_1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "ed25519 a-1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "ed25519 a_1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg",
        "ed25519 a_1 !!!CAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "ed25519 a_1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8 more",
        "\u00fc",
    ],
)
def test_what_is_no_key(tmp_path: Path, text: str) -> None:
    file = tmp_path / "signing.key"
    file.write_text(text)
    with pytest.raises(ConfigError, match="is not a signing key") as caught:
        signing_key.read(file)
    assert "AAEC" not in str(caught.value)


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        signing_key.read(tmp_path / "signing.key")
