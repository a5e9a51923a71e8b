"""`comity check`: of servers that are well, and of servers that are ill in one way each."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from comity.cli import main
from comity.cli.check.asking import Asker
from comity.cli.check.connecting import connect
from comity.cli.check.discovering import discover
from comity.cli.check.patient import Patient
from comity.cli.check.report import Report, Step
from comity.cli.demo.servers import free_ports
from comity.config import loads, signing_key
from comity.net.system import SystemClock, SystemEntropy
from comity.net.tls_probe import TlsProber, certificates_in
from comity.ports import Answer, SrvRecord
from comity.protocol.discovery import Target
from tests.cli.test_serve import serving
from tests.federation.doors import ScriptedTransport, TableResolver
from tests.federation.peer_server import Key, PeerServer
from tests.net.authority import Authority, Issued

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


async def configured(folder: Path, authority: Authority) -> tuple[Path, str]:
    """The configuration of a server that speaks TLS on loopback, and its name."""
    folder.mkdir()
    (port,) = await free_ports(1, SystemEntropy())
    issued = authority.issue(["127.0.0.1"], common_name="loopback")
    file = folder / "comity.toml"
    file.write_text(f"""\
server_name = "127.0.0.1:{port}"
[[listeners]]
bind = "127.0.0.1:{port}"
tls = true
[tls]
certificate = "{issued.certificate}"
private_key = "{issued.private_key}"
[federation]
trusted_ca = ["{authority.ca}"]
allow_ranges = ["127.0.0.0/8"]
trusted_key_servers = []
""")
    return file, f"127.0.0.1:{port}"


async def check(config: Path, name: str, *options: str) -> Result:
    """Run the command; in a thread, for it has a loop of its own."""
    line = ["check", name, *options, "--config", str(config)]
    return await asyncio.to_thread(CliRunner().invoke, main, line)


async def checked(config: Path, name: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the steps by title."""
    result = await check(config, name, "--json")
    answer = json.loads(result.output)
    assert answer["ok"] == (result.exit_code == 0)
    return result.exit_code, {step["title"].strip(): step for step in answer["steps"]}


@asynccontextmanager
async def a_peer(issued: Issued) -> AsyncIterator[PeerServer]:
    """A server on loopback with that certificate, named by its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.private_key)
    peer = await PeerServer(valid_until=int(time.time() * 1000) + DAY_MS).start(context)
    peer.name = peer.name.replace("localhost", "127.0.0.1")
    peer.on("GET", "/_matrix/federation/v1/version", 200, {"server": {"name": "Peer", "version": "1"}})
    peer.on(
        "GET",
        "/_matrix/federation/v1/query/profile",
        404,
        {"errcode": "M_NOT_FOUND", "error": "Who is that?"},
    )
    try:
        yield peer
    finally:
        await peer.down()


def marks(steps: Iterable[dict[str, Any]]) -> set[str]:
    return {step["mark"] for step in steps}


async def test_a_healthy_server_and_oneself(tmp_path: Path, authority: Authority) -> None:
    ours, own = await configured(tmp_path / "ours", authority)
    theirs, name = await configured(tmp_path / "theirs", authority)
    async with serving(ours), serving(theirs):
        code, steps = await checked(ours, name)
        assert (code, marks(steps.values())) == (0, {"ok"}), steps
        place = steps[name]
        assert place["summary"].startswith("TLSv1.3, certificate holds, ")
        assert "for 127.0.0.1: valid for 127.0.0.1" in place["details"]
        assert steps["key document"]["summary"].startswith("signed by its own key, valid for")
        assert "that of the connection" in steps["key document of 2014"]["summary"]
        assert steps["version"]["summary"].startswith("comity ")
        assert steps["signed request"]["summary"] == f"it accepts what {own} signs (404)"
        text = await check(ours, name)
        assert text.exit_code == 0
        assert "All is well." in text.output
        assert "\x1b" not in text.output
        code, steps = await checked(ours, own)
        assert (code, steps["signed request"]["mark"]) == (0, "skipped")
        assert "the server of this configuration" in steps["server name"]["details"]


async def test_the_key_that_answers_is_not_ours(tmp_path: Path, authority: Authority) -> None:
    ours, own = await configured(tmp_path / "ours", authority)
    theirs, name = await configured(tmp_path / "theirs", authority)
    async with serving(ours), serving(theirs):
        other = signing_key.render("other", Key("ed25519:other", "other").seed)
        (tmp_path / "ours/data/signing.key").write_text(other)
        code, steps = await checked(ours, name)
        assert (code, steps["signed request"]["mark"]) == (1, "failed")
        assert steps["signed request"]["summary"].startswith("status 401: M_UNAUTHORIZED ")
        assert "find the key ed25519:other in it" in steps["signed request"]["problem"]
        code, steps = await checked(ours, own)
        assert (code, steps["key document"]["mark"]) == (1, "failed")
        assert "published by another key" in steps["key document"]["summary"]


async def test_a_certificate_that_has_ended(tmp_path: Path, authority: Authority) -> None:
    config, _ = await configured(tmp_path / "ours", authority)
    async with a_peer(authority.issue(["127.0.0.1"], expired=True)) as peer:
        code, steps = await checked(config, peer.name)
    place = steps[peer.name]
    assert (code, place["mark"]) == (1, "failed")
    assert place["summary"] == "the certificate is not trusted: certificate has expired"
    assert "renew it" in place["problem"]
    assert any("ended 30 minutes ago" in line for line in place["details"])
    assert steps["not asked"]["mark"] == "skipped"


async def test_the_whole_chain_is_told(tmp_path: Path, authority: Authority) -> None:
    config, _ = await configured(tmp_path / "ours", authority)
    issued = authority.issue(["127.0.0.1"], common_name="leaf")
    issued.certificate.write_bytes(issued.certificate.read_bytes() + authority.ca.read_bytes())
    async with a_peer(issued) as peer:
        _, steps = await checked(config, peer.name)
    told = [line for line in steps[peer.name]["details"] if "issued by" in line]
    assert told == [
        "certificate: leaf, issued by Private test authority",
        "issuer's certificate: Private test authority, issued by Private test authority",
    ]


def test_a_chain_that_is_cut_off() -> None:
    body = b"\x00\x00\x0a" + b"\x00\x00\x02ab" + b"\x00\x00\x02cd"
    message = b"\x0b" + len(body).to_bytes(3, "big") + body
    records = b"".join(b"\x16\x03\x03\x00\x01" + message[i : i + 1] for i in range(len(message)))
    assert certificates_in(records) == [b"ab", b"cd"]
    assert not any(certificates_in(records[:length]) for length in range(len(records)))
    assert certificates_in(b"\x15\x03\x03\x00\x02\x02\x46") == []


async def test_a_certificate_for_another_name(tmp_path: Path, authority: Authority) -> None:
    config, _ = await configured(tmp_path / "ours", authority)
    async with a_peer(authority.issue(["other.example"])) as peer:
        code, steps = await checked(config, peer.name)
    place = steps[peer.name]
    assert (code, place["mark"]) == (1, "failed")
    assert place["summary"] == "the certificate is not for 127.0.0.1"
    assert place["problem"].startswith("It is for other.example. Others demand one for 127.0.0.1")


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path, authority: Authority) -> None:
    config, _ = await configured(tmp_path / "ours", authority)
    (tmp_path / "stranger").mkdir()
    async with a_peer(Authority(tmp_path / "stranger").issue(["127.0.0.1"])) as peer:
        code, steps = await checked(config, peer.name)
    place = steps[peer.name]
    assert (code, place["mark"]) == (1, "failed")
    assert "unable to get local issuer certificate" in place["summary"]
    assert "Private test authority" in place["problem"]


async def test_nobody_listens_and_a_port_without_tls(tmp_path: Path, authority: Authority) -> None:
    config, own = await configured(tmp_path / "ours", authority)
    code, steps = await checked(config, own)
    assert (code, steps[own]["summary"]) == (1, "connection refused")
    listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        code, steps = await checked(config, f"127.0.0.1:{port}")
    assert (code, steps[f"127.0.0.1:{port}"]["mark"]) == (1, "failed")
    assert steps[f"127.0.0.1:{port}"]["summary"].startswith("TLS failed: ")
    code, steps = await checked(config, "10.1.2.3:8448")
    assert (code, steps["10.1.2.3:8448"]["mark"]) == (1, "failed")
    assert "federation.allow_ranges" in steps["10.1.2.3:8448"]["problem"]
    code, steps = await checked(config, "not a name")
    assert (code, steps["server name"]["mark"]) == (1, "failed")


async def test_key_documents_that_do_not_hold(tmp_path: Path, authority: Authority) -> None:
    config, _ = await configured(tmp_path / "ours", authority)
    issued = authority.issue(["127.0.0.1"])
    async with a_peer(issued) as peer:
        document = {**peer.key_document(), "valid_until_ts": 1}
        peer.on("GET", "/_matrix/key/v2/server", 200, document)
        code, steps = await checked(config, peer.name)
        assert (code, steps["key document"]["mark"]) == (1, "failed")
        assert steps["key document"]["summary"] == "The key document is not signed by a key it publishes"
        # The server of this configuration has never run: it has no key to sign with.
        assert steps["signed request"]["mark"] == "skipped"
        peer.valid_until = int(time.time() * 1000) - DAY_MS
        peer.on("GET", "/_matrix/key/v2/server", 200, peer.key_document())
        code, steps = await checked(config, peer.name)
        assert (code, steps["key document"]["summary"]) == (1, "ended 24 hours ago")
        peer.knows_2014_alone(issued.der)
        code, steps = await checked(config, peer.name)
        assert (code, steps["key document"]["mark"]) == (0, "warning")
        assert steps["key document of 2014"]["mark"] == "ok"
        peer.knows_2014_alone(issued.der, key=Key("ed25519:peer", "a thief"))
        code, steps = await checked(config, peer.name)
        assert (code, steps["key document"]["mark"]) == (1, "failed")


def a_patient(authority: Authority, folder: Path, name: str, own: str = "own.example") -> Patient:
    """A patient on a network of tables; what is connected to is real."""
    config = loads(f'server_name = "{own}"\n[federation]\ndeny_servers = ["*.denied.example"]', folder)
    prober = TlsProber(trusted_ca=[authority.ca], allow_ranges=["127.0.0.0/8", "::1/128"])
    clock = SystemClock()
    report = Report(clock, shown=False, live=False)
    return Patient(name, config, None, ScriptedTransport(), TableResolver(), prober, clock, report)


def network(patient: Patient) -> tuple[ScriptedTransport, TableResolver]:
    assert isinstance(patient.transport, ScriptedTransport)
    assert isinstance(patient.resolver, TableResolver)
    return patient.transport, patient.resolver


def by_title(patient: Patient) -> dict[str, Step]:
    return {step.title.strip(): step for step in patient.report.steps}


async def test_a_delegation_that_leads_nowhere(tmp_path: Path, authority: Authority) -> None:
    (port,) = await free_ports(1, SystemEntropy())
    patient = a_patient(authority, tmp_path, "broken.example")
    transport, _ = network(patient)
    transport.answers["broken.example", 443] = Answer(301, {"location": "https://www.broken.example/mx"}, b"")
    transport.answers["www.broken.example", 443] = Answer(
        200, {"content-type": "text/plain"}, b'{"m.server": "127.0.0.1:%d"}' % port
    )
    targets = await discover(patient)
    assert await connect(patient, targets) is None
    steps = by_title(patient)
    assert steps["server name"].mark == "ok"
    assert steps[".well-known"].summary == f"delegates to 127.0.0.1:{port}"
    assert steps[".well-known"].details[0] == "301: redirects to https://www.broken.example/mx"
    assert steps["result"].details[-1] == "other servers may remember this for 24 hours"
    place = steps[f"127.0.0.1:{port}"]
    assert (place.mark, place.summary) == ("failed", "connection refused")
    assert "correct what names that port" in place.problem


async def test_each_address_of_a_name(tmp_path: Path, authority: Authority) -> None:
    patient = a_patient(authority, tmp_path, "localhost")
    async with a_peer(authority.issue(["localhost"])) as peer:
        port = int(peer.name.rpartition(":")[2])
        target = Target("localhost", port, "localhost", "localhost")
        assert await connect(patient, (target,)) == target
        steps = by_title(patient)
        assert "127.0.0.1" in steps[f"localhost:{port}"].summary
        assert steps["127.0.0.1"].mark == "ok"
        other = Target("localhost", port, "named.example", "named.example")
        assert await connect(patient, (other,)) is None
    assert by_title(patient)["127.0.0.1"].summary == "the certificate is not for named.example"
    nowhere = Target("nowhere.invalid", 8448, "nowhere.invalid", "nowhere.invalid")
    assert await connect(patient, (nowhere,)) is None
    assert by_title(patient)["nowhere.invalid:8448"].summary.startswith("no address: ")


async def test_a_server_that_is_denied(tmp_path: Path, authority: Authority) -> None:
    patient = a_patient(authority, tmp_path, "matrix.denied.example")
    await discover(patient)
    assert "federation.deny_servers names it" in by_title(patient)["server name"].problem


async def test_records_of_services(tmp_path: Path, authority: Authority) -> None:
    patient = a_patient(authority, tmp_path, "named.example")
    _, resolver = network(patient)
    resolver.records["_matrix-fed._tcp.named.example"] = None
    resolver.records["_matrix._tcp.named.example"] = [
        SrvRecord(20, 5, 8449, "two.example"),
        SrvRecord(10, 0, 8448, "one.example"),
    ]
    targets = await discover(patient)
    assert [target.host for target in targets] == ["one.example", "two.example"]
    steps = by_title(patient)
    assert [steps[title].mark for title in (".well-known", "SRV _matrix-fed", "SRV _matrix", "result")] == [
        "warning", "warning", "warning", "ok",
    ]  # fmt: skip
    assert steps["SRV _matrix"].details == [
        "two.example:8449  priority 20, weight 5",
        "one.example:8448  priority 10, weight 0",
    ]
    assert steps["result"].summary == "one.example:8448, two.example:8449"
    resolver.records["_matrix-fed._tcp.named.example"] = [SrvRecord(0, 0, 8448, ".")]
    assert await discover(patient) == ()
    assert by_title(patient)["result"].mark == "failed"


async def test_what_an_operator_must_put_right(tmp_path: Path, authority: Authority) -> None:
    """On the own name: a document that is none, apps that cannot read theirs, a clock that is wrong."""
    patient = a_patient(authority, tmp_path, "own.example")
    transport, _ = network(patient)
    transport.answers["own.example", 443] = Answer(
        200,
        {"content-type": "text/html", "date": "Tue, 15 Nov 1994 08:12:31 GMT"},
        b'{"m.server": "own.example:443"}',
    )
    (target,) = await discover(patient)
    await Asker(patient, target).ask()
    steps = by_title(patient)
    assert "Content-Type" in steps[".well-known"].problem
    assert "CORS" in steps["well-known for apps"].summary
    assert steps["clock"].mark == "warning"
    assert "behind the clock here" in steps["clock"].summary
    transport.answers["own.example", 443] = Answer(200, {}, b"<html>")
    await discover(patient)
    assert by_title(patient)[".well-known"].mark == "failed"
