"""Signatures: JSON, events, requests (X-Matrix), key documents."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.protocol import canonical_json, signing
from comity.protocol.build import Draft, Reference, build
from comity.protocol.errors import MatrixError
from comity.protocol.event import Event, decode_base64, signed_part
from comity.protocol.room_versions import ROOM_VERSIONS, V1, V2, V3, V7, V8, V11, V12, RoomVersion
from comity.protocol.signing import (
    MAX_AUTHORIZATION_LENGTH,
    MAX_KEYS_IN_DOCUMENT,
    Authorization,
    SigningKey,
    build_key_document,
    parse_authorization,
    parse_key_document,
    request_object,
    sign_json,
    sign_request,
    verify,
    verify_batch,
    verify_json,
)

SEED = decode_base64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
KEY = SigningKey("1", SEED)
OTHER = SigningKey("other", bytes(32))
PUBLIC = decode_base64(KEY.public)
SIGNED_EMPTY = "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"
SIGNED_DATA = "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"


@pytest.mark.parametrize(
    ("value", "signature"), [({}, SIGNED_EMPTY), ({"one": 1, "two": "Two"}, SIGNED_DATA)]
)
def test_the_specifications_json_vectors(value: dict[str, Any], signature: str) -> None:
    signed = sign_json(value, "domain", KEY)
    assert signed == {**value, "signatures": {"domain": {"ed25519:1": signature}}}
    assert "signatures" not in value
    assert verify_json(signed, "domain", {"ed25519:1": PUBLIC})


def test_signatures_and_unsigned_are_not_covered() -> None:
    first = sign_json({"a": 1, "unsigned": {"age": 5}}, "one", KEY)
    both = sign_json(first, "two", OTHER)
    assert set(both["signatures"]) == {"one", "two"}
    assert set(first["signatures"]) == {"one"}
    both["unsigned"] = {"age": 6}
    assert verify_json(both, "one", {"ed25519:1": PUBLIC})
    assert verify_json(both, "two", {"ed25519:other": decode_base64(OTHER.public)})
    assert not verify_json({**both, "a": 2}, "one", {"ed25519:1": PUBLIC})


@pytest.mark.parametrize(
    "signatures",
    [
        None,
        [],
        "text",
        {},
        {"domain": None},
        {"domain": []},
        {"domain": {"ed25519:1": None}},
        {"domain": {"ed25519:1": ""}},
        {"domain": {"ed25519:1": "not Base64!"}},
        {"domain": {"ed25519:1": SIGNED_EMPTY[:-4]}},
        {"domain": {"ed25519:1": SIGNED_DATA}},
        {"domain": {"ed25519:2": SIGNED_EMPTY}},
        {"elsewhere": {"ed25519:1": SIGNED_EMPTY}},
    ],
)
def test_what_is_no_signature(signatures: object) -> None:
    assert not verify_json({"signatures": signatures}, "domain", {"ed25519:1": PUBLIC})


def test_verify_takes_any_key_and_signature() -> None:
    good = KEY.sign(b"message")
    assert verify(PUBLIC, b"message", good)
    assert verify(PUBLIC, b"message", good + "==")
    for public in (b"", b"short", bytes(32), bytes(33)):
        assert not verify(public, b"message", good)
    checks = [(PUBLIC, b"message", good), (PUBLIC, b"massage", good), (PUBLIC, b"message", "é")]
    assert verify_batch(checks) == [True, False, False]


@pytest.mark.parametrize(("version", "seed"), [("", SEED), ("a-b", SEED), ("a", b"short"), ("é", SEED)])
def test_keys_that_cannot_be(version: str, seed: bytes) -> None:
    with pytest.raises(ValueError, match=r"key version|seed"):
        SigningKey(version, seed)


def test_a_private_key_is_not_shown() -> None:
    assert repr(KEY) == "<SigningKey ed25519:1>"


class TestEvents:
    """server-server §Signing Events."""

    @pytest.mark.parametrize("version", ROOM_VERSIONS.values(), ids=lambda version: version.identifier)
    def test_a_signature_holds_for_the_event_and_its_redacted_copy(self, version: RoomVersion) -> None:
        event = member(version, {"membership": "join", "displayname": "Alice"})
        for copy in (event, event.redacted()):
            message = signed_part(version, copy.source)
            assert verify(PUBLIC, message, copy.source["signatures"]["domain"]["ed25519:1"])
            assert signing.add_signature(copy, "other", OTHER).event_id == event.event_id
        changed = {**event.source, "content": {"membership": "leave"}}
        signature = event.source["signatures"]["domain"]["ed25519:1"]
        assert not verify(PUBLIC, signed_part(version, changed), signature)

    def test_a_second_signature_stands_beside_the_first(self) -> None:
        both = signing.add_signature(member(V11, {"membership": "invite"}), "other", OTHER)
        message = signed_part(V11, both.source)
        signatures = both.source["signatures"]
        assert verify(PUBLIC, message, signatures["domain"]["ed25519:1"])
        assert verify(decode_base64(OTHER.public), message, signatures["other"]["ed25519:other"])

    def test_who_must_have_signed(self) -> None:
        join = {"membership": "join", "join_authorised_via_users_server": "@b:authoriser"}
        invite = {"membership": "invite", "third_party_invite": {"signed": {}}}
        table: list[tuple[RoomVersion, dict[str, Any], set[str]]] = [
            (V1, {"membership": "join"}, {"domain", "elsewhere"}),
            (V2, invite, {"elsewhere"}),
            (V3, {"membership": "join"}, {"domain"}),
            (V3, invite, set()),
            (V3, {"membership": "invite", "third_party_invite": "text"}, {"domain"}),
            (V7, join, {"domain"}),
            (V8, join, {"domain", "authoriser"}),
            (V12, join, {"domain", "authoriser"}),
            (V12, {**join, "join_authorised_via_users_server": 5}, {"domain"}),
        ]
        for version, content, servers in table:
            assert signing.required_signers(member(version, content)) == servers, (
                version.identifier,
                content,
            )


def member(version: RoomVersion, content: dict[str, Any]) -> Event:
    return build(
        Draft("m.room.member", "@a:domain", content, state_key="@a:domain"),
        version=version,
        room_id="!x:domain",
        prev=[Reference("$b:elsewhere", 2, "hash")],
        auth=[],
        now_ms=1000,
        server="domain",
        key=KEY,
        assigned_id="$e:elsewhere",
    )


class TestRequests:
    """server-server §Request Authentication."""

    def test_what_we_write_we_read(self) -> None:
        header = sign_request("PUT", "/_matrix/x?a=b", "origin:80", "[::1]:8448", {"a": 1}, KEY)
        assert header.startswith('X-Matrix origin="origin:80",destination="[::1]:8448",key="ed25519:1",sig="')
        read = parse_authorization(header)
        assert (read.origin, read.destination, read.key_id) == ("origin:80", "[::1]:8448", "ed25519:1")
        message = request_object("PUT", "/_matrix/x?a=b", "origin:80", "[::1]:8448", {"a": 1})
        assert verify(PUBLIC, canonical_json.encode(message), read.signature)

    def test_the_object_that_is_signed(self) -> None:
        assert request_object("GET", "/t", "o", "d", None) == {
            "method": "GET",
            "uri": "/t",
            "origin": "o",
            "destination": "d",
        }
        assert request_object("PUT", "/t", "o", None, {}) == {
            "method": "PUT",
            "uri": "/t",
            "origin": "o",
            "content": {},
        }

    @pytest.mark.parametrize(
        "header",
        [
            'X-Matrix origin="a.org",destination="b.org",key="ed25519:k",sig="s+/="',
            'x-matrix   origin="a.org",destination="b.org",key="ed25519:k",sig="s+/="',
            '  X-MATRIX SIG="s+/=",KEY="ed25519:k",Destination="b.org",ORIGIN="a.org"  ',
            "X-Matrix origin=a.org,destination=b.org,key=ed25519:k,sig=s+/=",
            'X-Matrix origin = "a.org" \t,\t destination=b.org ,key="ed25519:k", sig="s+/="',
            'X-Matrix origin="a\\.org",destination="\\b.org",key="ed25519:\\k",sig="s+/="',
            'X-Matrix origin="a.org",destination="b.org",key="ed25519:k",sig="s+/=",',
            'X-Matrix new="a, \\"b\\" = c",origin=a.org,destination=b.org,key="ed25519:k",sig="s+/="',
        ],
    )
    def test_ways_to_write_the_same(self, header: str) -> None:
        assert parse_authorization(header) == Authorization("a.org", "b.org", "ed25519:k", "s+/=")

    def test_colons_without_quotes(self) -> None:
        read = parse_authorization("X-Matrix origin=a.org:8448,destination=[::1]:80,key=ed25519:k,sig=s")
        assert read == Authorization("a.org:8448", "[::1]:80", "ed25519:k", "s")

    def test_the_destination_may_be_missing(self) -> None:
        assert parse_authorization("X-Matrix origin=a,key=k,sig=s").destination is None

    @pytest.mark.parametrize(
        "header",
        [
            "",
            "X-Matrix",
            "X-Matrix ",
            "Bearer token",
            "Basic origin=a,key=k,sig=s",
            "X-Matrixorigin=a,key=k,sig=s",
            "X-Matrix origin=a,key=k",
            "X-Matrix origin=a,sig=s",
            "X-Matrix key=k,sig=s",
            "X-Matrix origin=,key=k,sig=s",
            'X-Matrix origin="",key=k,sig=s',
            "X-Matrix origin=a,origin=b,key=k,sig=s",
            "X-Matrix origin=a,ORIGIN=a,key=k,sig=s",
            'X-Matrix origin="a,key=k,sig=s',
            'X-Matrix origin="a"b,key=k,sig=s',
            "X-Matrix origin=a key=k sig=s",
            "X-Matrix origin a,key=k,sig=s",
            "X-Matrix =a,key=k,sig=s",
            'X-Matrix origin="a\\',
            "X-Matrix origin=a b,key=k,sig=s",
            "X-Matrix origin=a_b,key=k,sig=s",
            'X-Matrix origin="exämple",key=k,sig=s',
            "X-Matrix origin=a,key=k,sig=s," + "x" * MAX_AUTHORIZATION_LENGTH,
        ],
    )
    def test_malformed_headers(self, header: str) -> None:
        with pytest.raises(MatrixError) as caught:
            parse_authorization(header)
        assert (caught.value.status, caught.value.code) == (401, "M_UNAUTHORIZED")

    @given(st.text(max_size=60))
    def test_no_header_is_more_than_refused(self, text: str) -> None:
        for header in (text, "X-Matrix " + text, 'X-Matrix origin="' + text + '",key=k,sig=s'):
            try:
                read = parse_authorization(header)
            except MatrixError:
                continue
            assert read.origin


class TestKeyDocuments:
    """server-server §Publishing Keys."""

    def document(self) -> dict[str, Any]:
        old = {"ed25519:old": {"key": OTHER.public, "expired_ts": 500}}
        return build_key_document("domain", [KEY], old, 1_000_000)

    def resigned(self, **changed: Any) -> dict[str, Any]:
        document = {**self.document(), **changed}
        del document["signatures"]
        return sign_json(document, "domain", KEY)

    def test_what_we_publish_we_read(self) -> None:
        keys = {key.key_id: key for key in parse_key_document(self.document(), "domain")}
        assert set(keys) == {"ed25519:1", "ed25519:old"}
        assert (keys["ed25519:1"].public, keys["ed25519:1"].valid_until_ms) == (PUBLIC, 1_000_000)
        assert not keys["ed25519:1"].expired
        assert (keys["ed25519:old"].valid_until_ms, keys["ed25519:old"].expired) == (500, True)

    def test_every_key_of_ours_signs(self) -> None:
        document = build_key_document("domain", [KEY, OTHER], {}, 1)
        assert set(document["signatures"]["domain"]) == {"ed25519:1", "ed25519:other"}
        assert len(parse_key_document(document, "domain")) == 2

    def test_a_notarys_signature_changes_nothing(self) -> None:
        document = sign_json(self.document(), "notary", OTHER)
        assert parse_key_document(document, "domain") == parse_key_document(self.document(), "domain")

    def test_keys_of_other_algorithms_are_passed_over(self) -> None:
        keys = {**self.document()["verify_keys"], "rsa:1": {"key": "AA"}, "ed25519:a-b": {"key": "AA"}}
        document = self.resigned(verify_keys=keys)
        assert [key.key_id for key in parse_key_document(document, "domain") if not key.expired] == [
            "ed25519:1"
        ]

    def test_a_current_key_is_not_an_old_one_as_well(self) -> None:
        document = self.resigned(old_verify_keys={"ed25519:1": {"key": OTHER.public, "expired_ts": 1}})
        assert [key.public for key in parse_key_document(document, "domain")] == [PUBLIC]

    def test_an_old_key_does_not_sign_the_document(self) -> None:
        document = self.document()
        del document["signatures"]
        with pytest.raises(ValueError, match="not signed"):
            parse_key_document(sign_json(document, "domain", SigningKey("old", bytes(32))), "domain")

    def test_the_name_must_be_the_servers(self) -> None:
        with pytest.raises(ValueError, match="not that server"):
            parse_key_document(self.document(), "elsewhere")

    @pytest.mark.parametrize(
        "changed",
        [
            {"valid_until_ts": None},
            {"valid_until_ts": "1"},
            {"valid_until_ts": True},
            {"valid_until_ts": 1.5},
            {"valid_until_ts": 2**60},
            {"verify_keys": None},
            {"verify_keys": []},
            {"verify_keys": {}},
            {"verify_keys": {"ed25519:1": {}}},
            {"verify_keys": {"ed25519:1": "text"}},
            {"verify_keys": {"ed25519:1": {"key": 5}}},
            {"verify_keys": {"ed25519:1": {"key": "AAAA"}}},
            {"verify_keys": {"ed25519:1": {"key": "not Base64!"}}},
            {"old_verify_keys": []},
            {"old_verify_keys": {f"ed25519:{number}": {} for number in range(MAX_KEYS_IN_DOCUMENT)}},
        ],
    )
    def test_documents_of_the_wrong_shape(self, changed: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r".+"):
            parse_key_document(self.resigned(**changed), "domain")

    @pytest.mark.parametrize("changed", [{"valid_until_ts": 2_000_000}, {"signatures": {}}, {"extra": 1}])
    def test_documents_that_are_not_signed(self, changed: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="not signed"):
            parse_key_document({**self.document(), **changed}, "domain")

    @pytest.mark.parametrize("document", [None, [], "text", {}])
    def test_other_things_are_no_documents(self, document: object) -> None:
        with pytest.raises(ValueError, match="not that server"):
            parse_key_document(document, "domain")
