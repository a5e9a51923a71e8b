"""Keys with which users sign their devices (client-server §Cross-signing), and those signatures.

Signatures of other users' master keys are not kept: the answer to an upload says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from comity.protocol.errors import MatrixError, bad_json, forbidden, invalid_param, missing_param
from comity.protocol.event import decode_base64
from comity.protocol.signing import verify_json
from comity.store import accounts as stored
from comity.store import cross_signing, device_keys
from comity.store.cross_signing import MASTER, SELF_SIGNING, USAGES
from comity.store.database import Database, Tx, WriteTx
from comity.users.device_news import DeviceNews
from comity.users.key_shapes import MAX_IDENTITY_BYTES, public_keys, signing_key
from comity.users.login import PasswordProof

#: Objects with signatures in one upload: the devices of one user, and some people.
MAX_SIGNED = 1_000


class CrossSigning:
    """The keys for signing of local users."""

    def __init__(self, database: Database, news: DeviceNews, proof: PasswordProof) -> None:
        self._database = database
        self._news = news
        self._proof = proof

    async def upload(self, user_id: str, body: Mapping[str, Any]) -> None:
        """`POST /keys/device_signing/upload`, against the password where the specification wants it.

        Raises 400 M_INVALID_PARAM, M_MISSING_PARAM or M_INVALID_SIGNATURE, 401 with flows,
        403 M_FORBIDDEN.
        """
        given: dict[str, str] = {}
        for usage in USAGES:
            if body.get(f"{usage}_key") is not None:
                json = signing_key(user_id, usage, body[f"{usage}_key"])
                if json is None:
                    raise invalid_param(f"{usage}_key is not a key of that usage of the user who uploads it")
                given[usage] = json
        held = await self._database.look_up(lambda tx: self._check(tx, user_id, given))
        new = {usage: json for usage, json in given.items() if not _same(held.get(usage), json)}
        if not new:
            return
        proven = None
        if MASTER in held:
            proven = await self._proof.require("upload signing keys", user_id, body.get("auth"))

        def store(tx: WriteTx) -> None:
            self._check(tx, user_id, given)
            position = tx.next_position()
            for usage, json in new.items():
                cross_signing.put(tx, user_id, usage, json, position)
            self._news.seen(tx, user_id, position)
            self._news.tell_servers(tx, user_id)

        await self._database.write(store)
        if proven is not None:
            self._proof.finish(proven)

    def _check(self, tx: Tx, user_id: str, given: Mapping[str, str]) -> dict[str, str]:
        """Whether the keys go together; usage -> JSON text of those that are held."""
        held = cross_signing.keys_of(tx, user_id)
        master = given.get(MASTER, held.get(MASTER))
        if master is None:
            raise missing_param("There is no master key: it comes first, or with the others")
        by_id = public_keys(orjson.loads(master)) or {}
        devices = {device.device_id for device in stored.devices(tx, user_id)}
        for usage, json in given.items():
            key = orjson.loads(json)
            if any(key_id.partition(":")[2] in devices for key_id in public_keys(key) or {}):
                raise forbidden("A key has the same id as one of the user's devices")
            if usage != MASTER and not verify_json(key, user_id, by_id):
                raise MatrixError(
                    400, "M_INVALID_SIGNATURE", f"{usage}_key is not validly signed by the master key"
                )
        return held

    # -- signatures

    async def add_signatures(self, user_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /keys/signatures/upload`: the answer. Raises 400 M_BAD_JSON or M_INVALID_PARAM."""
        if not all(isinstance(part, dict) for part in body.values()):
            raise bad_json("The body is not a map of users to maps of key ids to signed objects")
        if sum(len(part) for part in body.values()) > MAX_SIGNED:
            raise invalid_param(f"More than {MAX_SIGNED} objects are signed at once")

        def store(tx: WriteTx) -> dict[str, dict[str, Any]]:
            failures: dict[str, dict[str, Any]] = {}
            for signed_user, objects in body.items():
                for name, signed in objects.items():
                    try:
                        if signed_user != user_id:
                            raise MatrixError(
                                400, "M_UNRECOGNIZED", "Signatures of other users' keys are not kept here"
                            )
                        self._add(tx, user_id, name, signed)
                    except MatrixError as error:
                        failures.setdefault(signed_user, {})[name] = error.body()
            return failures

        return {"failures": await self._database.write(store)}

    def _add(self, tx: WriteTx, user_id: str, name: str, signed: object) -> None:
        """Add the signatures of one object of the user's own: a device, or the master key."""
        if not isinstance(signed, dict):
            raise bad_json("What is signed is not a JSON object")
        signing = {usage: orjson.loads(json) for usage, json in cross_signing.keys_of(tx, user_id).items()}
        master = signing.get(MASTER)
        of_master = (public_keys(master) or {}) if master is not None else {}
        if f"ed25519:{name}" in of_master and master is not None:
            signers = self._device_signers(tx, user_id)
            merged = _merged(master, signed, user_id, signers)
            position = tx.next_position()
            cross_signing.put(tx, user_id, MASTER, merged, position)
            self._news.seen(tx, user_id, position)
            self._news.tell_servers(tx, user_id)
            return
        held = device_keys.identity(tx, user_id, name)
        if held is None:
            raise MatrixError(404, "M_NOT_FOUND", "The user has no such device or key")
        signers = public_keys(signing[SELF_SIGNING]) or {} if SELF_SIGNING in signing else {}
        device_keys.put_identity(tx, user_id, name, _merged(orjson.loads(held), signed, user_id, signers))
        self._news.changed(tx, user_id, name)

    def _device_signers(self, tx: Tx, user_id: str) -> dict[str, bytes]:
        """key id -> public key of the user's devices."""
        signers: dict[str, bytes] = {}
        for device_id, json, _ in device_keys.device_keys(tx, user_id):
            encoded = orjson.loads(json)["keys"].get(f"ed25519:{device_id}")
            try:
                signers[f"ed25519:{device_id}"] = decode_base64(encoded) if isinstance(encoded, str) else b""
            except ValueError:
                continue
        return signers


def _bare(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in value.items() if name not in ("signatures", "unsigned")}


def _same(held: str | None, given: str) -> bool:
    """Whether a key is the one that is held, whoever has signed it since."""
    return held is not None and _bare(orjson.loads(held)) == _bare(orjson.loads(given))


def _merged(
    held: Mapping[str, Any], signed: Mapping[str, Any], user_id: str, signers: Mapping[str, bytes]
) -> str:
    """The JSON text of `held` with the signatures of `signed` by `signers`. Raises 400."""
    if _bare(held) != _bare(signed):
        raise invalid_param("What is signed is not what this server has")
    given = signed.get("signatures")
    mine = given.get(user_id) if isinstance(given, dict) else None
    new = {
        key_id: signature
        for key_id, signature in (mine.items() if isinstance(mine, dict) else ())
        if key_id in signers
        and verify_json({**_bare(signed), "signatures": {user_id: {key_id: signature}}}, user_id, signers)
    }
    if not new:
        raise MatrixError(400, "M_INVALID_SIGNATURE", "There is no valid signature by a key of the user's")
    old = held.get("signatures")
    signatures = dict(old) if isinstance(old, dict) else {}
    own = signatures.get(user_id)
    signatures[user_id] = {**(own if isinstance(own, dict) else {}), **new}
    text = orjson.dumps({**_bare(held), "signatures": signatures})
    if len(text) > MAX_IDENTITY_BYTES:
        raise invalid_param("The key has too many signatures")
    return text.decode()
