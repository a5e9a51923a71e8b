"""`comity key`: the signing key changes, and what the old one has signed stays valid."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from comity.cli import main
from comity.cli.key import rotated
from comity.cli.serving import alone
from comity.config import ConfigError, load, signing_key
from comity.federation.own_keys import OwnKeys
from comity.net.system import SystemClock
from comity.protocol.event import decode_base64
from comity.protocol.signing import MAX_KEYS_IN_DOCUMENT, PublishedKey, SigningKey, parse_key_document
from tests.federation.doors import FixedEntropy, ManualClock

SEED = bytes(range(32))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "comity.toml"
    file.write_text('server_name = "example.org"\ndata_dir = "data"\n')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "signing.key").write_text(signing_key.render("first", SEED))
    return file


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["key", *arguments, "--config", str(config)])


def test_a_rotation(config: Path) -> None:
    first = SigningKey("first", SEED)
    before = SystemClock().now_ms()
    result = run(config, "rotate")
    assert result.exit_code == 0
    tree = load(config)
    new, (old,) = signing_key.read(tree.signing_key_file), signing_key.read_old(tree.old_keys_file)
    assert new.key_id in result.output and new.public != first.public
    assert (old.key_id, old.public) == ("ed25519:first", decode_base64(first.public))
    assert before <= old.valid_until_ms <= SystemClock().now_ms()
    assert tree.signing_key_file.stat().st_mode & 0o777 == 0o600
    # The private half of the old one is nowhere any more.
    private = signing_key.render("first", SEED).split()[2]
    assert all(private not in file.read_text() for file in tree.data_dir.iterdir())
    assert {file.name for file in tree.data_dir.iterdir()} == {"signing.key", "signing.old", "lock"}


def test_what_is_published_after_it(config: Path) -> None:
    for _ in range(3):
        assert run(config, "rotate").exit_code == 0
    tree = load(config)
    key, old = signing_key.read(tree.signing_key_file), signing_key.read_old(tree.old_keys_file)
    document = json.loads(OwnKeys("example.org", [key], old, None, SystemClock()).document())
    published = parse_key_document(document, "example.org")
    assert [entry.key_id for entry in published if not entry.expired] == [key.key_id]
    assert [entry for entry in published if entry.expired] == sorted(old, key=lambda entry: entry.key_id)
    assert len(old) == 3 and "ed25519:first" in {entry.key_id for entry in old}


def test_the_list(config: Path) -> None:
    assert re.fullmatch(r"ed25519:first  \S{43}  signs now\n", run(config, "list").output)
    run(config, "rotate")
    now, then = run(config, "list").output.splitlines()
    assert re.fullmatch(r"ed25519:a_\w{4}  \S{43}  signs now", now)
    assert re.fullmatch(r"ed25519:first  \S{43}  signed until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", then)


def test_a_running_server_is_in_the_way(config: Path) -> None:
    with alone(load(config).data_dir):
        result = run(config, "rotate")
    assert result.exit_code == 1 and "another comity is running" in result.output
    assert signing_key.read(load(config).signing_key_file).key_id == "ed25519:first"


def test_a_rotation_that_was_cut_off_goes_on(config: Path) -> None:
    tree = load(config)
    first = signing_key.read(tree.signing_key_file)
    half = PublishedKey(first.key_id, decode_base64(first.public), 1, expired=True)
    tree.old_keys_file.write_text(signing_key.render_old([half]))
    # The key that is in use is no old one …
    assert run(config, "list").output.count("ed25519:first") == 1
    document = json.loads(OwnKeys("example.org", [first], [half], None, SystemClock()).document())
    assert document["old_verify_keys"] == {}
    # … until the rotation is made in full.
    assert run(config, "rotate").exit_code == 0
    (old,) = signing_key.read_old(tree.old_keys_file)
    assert old.key_id == "ed25519:first" and old.valid_until_ms > 1


def test_no_two_keys_have_one_id(config: Path) -> None:
    tree, clock = load(config), ManualClock()
    made = {rotated(tree, clock, FixedEntropy()) for _ in range(4)}
    assert len(made) == 4
    assert len({entry.key_id for entry in signing_key.read_old(tree.old_keys_file)}) == 4


def test_a_document_holds_so_many_keys(config: Path) -> None:
    tree = load(config)
    many = [PublishedKey(f"ed25519:{n}", b"x" * 32, n, expired=True) for n in range(MAX_KEYS_IN_DOCUMENT - 1)]
    tree.old_keys_file.write_text(signing_key.render_old(many))
    assert signing_key.read_old(tree.old_keys_file) == many
    result = run(config, "rotate")
    assert result.exit_code == 1 and "take out the oldest" in result.output


@pytest.mark.parametrize(
    "text",
    ["x", "ed25519 a AAAA 1", "rsa a " + "A" * 43 + " 1", "ed25519 a " + "A" * 43 + " soon",
     "ed25519 a: " + "A" * 43 + " 1", "ü", ("ed25519 a " + "A" * 43 + " 1\n") * 64, "x" * 100_000],
)  # fmt: skip
def test_what_is_no_file_of_old_keys(config: Path, text: str) -> None:
    file = load(config).old_keys_file
    file.write_text(text)
    with pytest.raises(ConfigError, match="is not a file of old signing keys"):
        signing_key.read_old(file)
    for name in ("list", "rotate"):
        result = run(config, name)
        assert result.exit_code == 2 and "is not a file of old signing keys" in result.output


def test_without_a_key_there_is_nothing_to_rotate(config: Path) -> None:
    load(config).signing_key_file.unlink()
    result = run(config, "rotate")
    assert result.exit_code == 2 and "cannot be read" in result.output


def test_a_folder_that_cannot_be_written(config: Path) -> None:
    tree = load(config)
    tree.old_keys_file.with_name("signing.old.new").mkdir()
    result = run(config, "rotate")
    assert result.exit_code == 1 and "cannot be written" in result.output
    assert signing_key.read(tree.signing_key_file).key_id == "ed25519:first"
