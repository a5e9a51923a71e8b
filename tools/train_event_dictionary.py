"""Make the compression dictionary of stored events from invented, ordinary events.

Run it when a new dictionary is wanted, give it the next number, and keep every old file:
`python tools/train_event_dictionary.py 1`. The events are drawn from a seed, so the same
program makes the same file.
"""

from __future__ import annotations

import random
import string
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import zstandard

from comity.protocol.build import Draft, Reference, build
from comity.protocol.room_versions import ROOM_VERSIONS
from comity.protocol.signing import SigningKey

SAMPLES = 6_000
DICTIONARY_BYTES = 16_384
WORDS = (
    "the of and to in is that it for was on are as with they at this have from or had by but some what there "
    "we can out other were all your when up use word how said each she which do their time if will way about "
    "many then them would write like these her long make thing see him two has look more day could go come "
    "did my sound no most who"
).split()


def _name(chance: random.Random, least: int, most: int) -> str:
    return "".join(chance.choices(string.ascii_lowercase, k=chance.randint(least, most)))


def _hash(chance: random.Random) -> str:
    return "".join(chance.choices(string.ascii_letters + string.digits + "-_", k=43))


def _draft(chance: random.Random, user: str) -> Draft:
    text = " ".join(chance.choices(WORDS, k=chance.randint(1, 40)))
    kind = chance.random()
    if kind < 0.4:
        content: dict[str, object] = {"msgtype": "m.text", "body": text, "m.mentions": {}}
        if chance.random() < 0.3:
            content |= {"format": "org.matrix.custom.html", "formatted_body": f"<p>{text}</p>"}
        if chance.random() < 0.3:
            content["m.relates_to"] = {"m.in_reply_to": {"event_id": "$" + _hash(chance)}}
        return Draft("m.room.message", user, content)
    if kind < 0.5:
        cipher = "".join(chance.choices(string.ascii_letters + string.digits + "+/", k=300))
        return Draft(
            "m.room.encrypted",
            user,
            {
                "algorithm": "m.megolm.v1.aes-sha2",
                "ciphertext": cipher,
                "device_id": "ABCDEFGHIJ",
                "sender_key": _hash(chance),
                "session_id": _hash(chance),
            },
        )
    if kind < 0.85:
        membership = chance.choice(["join", "join", "join", "leave", "invite", "ban"])
        content = {
            "membership": membership,
            "displayname": _name(chance, 3, 12).title(),
            "avatar_url": f"mxc://{_name(chance, 4, 9)}.org/{_hash(chance)[:24]}",
        }
        return Draft("m.room.member", user, content, state_key=user)
    if kind < 0.92:
        relation = {
            "m.relates_to": {"rel_type": "m.annotation", "event_id": "$" + _hash(chance), "key": "👍"}
        }
        return Draft("m.reaction", user, relation)
    if kind < 0.95:
        return Draft("m.room.redaction", user, {"reason": text}, redacts="$" + _hash(chance))
    event_type, body = chance.choice(_state(chance, user, text))
    return Draft(event_type, user, body, state_key="")


def _state(chance: random.Random, user: str, text: str) -> Sequence[tuple[str, Mapping[str, object]]]:
    levels = {
        "ban": 50,
        "events": {
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.canonical_alias": 50,
            "m.room.avatar": 50,
            "m.room.tombstone": 100,
            "m.room.server_acl": 100,
            "m.room.encryption": 100,
        },
        "events_default": 0,
        "invite": 0,
        "kick": 50,
        "redact": 50,
        "state_default": 50,
        "users": {user: 100},
        "users_default": 0,
        "historical": 100,
    }
    return [
        ("m.room.power_levels", levels),
        ("m.room.topic", {"topic": text}),
        ("m.room.name", {"name": text[:30]}),
        ("m.room.join_rules", {"join_rule": "public"}),
        ("m.room.history_visibility", {"history_visibility": "shared"}),
        ("m.room.guest_access", {"guest_access": "can_join"}),
        ("m.room.create", {"creator": user, "room_version": "10", "m.federate": True}),
        ("m.room.canonical_alias", {"alias": f"#{_name(chance, 3, 9)}:{_name(chance, 4, 9)}.org"}),
    ]


def main(number: int) -> None:
    """Write `event_dictionary_NUMBER.bin` beside the module that uses it."""
    chance = random.Random(number)
    samples: list[bytes | bytearray | memoryview] = []
    for _ in range(SAMPLES):
        version = ROOM_VERSIONS[chance.choice(["1", "6", "9", "10", "10", "11", "11", "12", "12", "12"])]
        server = f"{_name(chance, 4, 10)}.{chance.choice(['org', 'com', 'net', 'de', 'chat'])}"
        user = f"@{_name(chance, 3, 12)}:{server}"
        key = SigningKey("a_" + _name(chance, 4, 4), chance.randbytes(32))
        room_id = "!" + (
            _hash(chance) if version.room_id_is_create_hash else _hash(chance)[:18] + ":" + server
        )
        references = [
            Reference("$" + _hash(chance), chance.randint(1, 9999), _hash(chance)) for _ in range(4)
        ]
        draft = _draft(chance, user)
        nameless = version.room_id_is_create_hash and draft.type == "m.room.create"
        event = build(
            draft,
            version=version,
            room_id=None if nameless else room_id,
            prev=references[:1],
            auth=references[1:],
            now_ms=1_700_000_000_000 + chance.randint(0, 10**11),
            server=server,
            key=key,
            assigned_id="$" + _hash(chance) + ":x",
        )
        samples.append(event.encoded)
    dictionary = zstandard.train_dictionary(DICTIONARY_BYTES, list(samples))
    path = Path(__file__).parent.parent / "comity" / "store" / f"event_dictionary_{number}.bin"
    path.write_bytes(dictionary.as_bytes())
    packer = zstandard.ZstdCompressor(level=3, dict_data=dictionary)
    before = sum(len(sample) for sample in samples)
    after = sum(len(packer.compress(sample)) for sample in samples)
    print(f"{path.name}: {before / len(samples):.0f} -> {after / len(samples):.0f} bytes an event")


if __name__ == "__main__":
    main(int(sys.argv[1]))
