"""Keys with which users sign their devices (client-server §Cross-signing), and those signatures.

A signature of another user's master key is shown to whoever made it, and to nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from comity.protocol.errors import MatrixError, bad_json, forbidden, invalid_param, missing_param
from comity.protocol.event import decode_base64
from comity.protocol.identifiers import is_user_id
from comity.protocol.signing import verify_json
from comity.store import accounts as stored
from comity.store import cross_signing, device_keys
from comity.store.cross_signing import MASTER, SELF_SIGNING, USAGES, USER_SIGNING, UserSignature
from comity.store.database import Database, Tx, WriteTx
from comity.users.accounts import Accounts
from comity.users.device_news import DeviceNews
from comity.users.key_shapes import MAX_IDENTITY_BYTES, public_keys, signing_key
from comity.users.login import PasswordProof
from comity.users.oauth.identity_reset import IdentityReset

#: Objects with signatures in one upload: the devices of one user, and some people.
MAX_SIGNED = 1_000
#: Other users whose keys one user has signed: whom somebody has verified in person.
MAX_SIGNED_USERS = 10_000


class CrossSigning:
    """The keys for signing of local users."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        news: DeviceNews,
        proof: PasswordProof,
        reset: IdentityReset | None = None,
    ) -> None:
        """`reset` is how sessions of OAuth 2.0 prove what others prove by a password."""
        self._database = database
        self._accounts = accounts
        self._news = news
        self._proof = proof
        self._reset = reset

    async def upload(self, user_id: str, body: Mapping[str, Any], *, by_oauth: bool = False) -> None:
        """`POST /keys/device_signing/upload`, against a proof where the specification wants it.

        That is the password, or for sessions of OAuth 2.0 the user's word on a page (§OAuth authentication).

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
        reset = self._reset if by_oauth else None
        if MASTER in held:
            proof = self._proof if reset is None else reset
            proven = await proof.require("upload signing keys", user_id, body)

        def store(tx: WriteTx) -> None:
            now = self._check(tx, user_id, given)
            if proven is None and MASTER in now:
                # Another upload was faster: but for the same keys, this one would need the password.
                if all(_same(now.get(usage), json) for usage, json in given.items()):
                    return
                raise forbidden("Other signing keys have just been uploaded")
            position = tx.next_position()
            for usage, json in new.items():
                cross_signing.put(tx, user_id, usage, json, position)
            if USER_SIGNING in new:
                cross_signing.forget_signatures(tx, user_id)
            self._news.seen(tx, user_id, position)
            self._news.tell_servers(tx, user_id)

        await self._database.write(store)
        if proven is None:
            return
        if reset is not None:
            reset.withdraw(user_id)
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
                        if signed_user == user_id:
                            self._add(tx, user_id, name, signed)
                        else:
                            self._add_to_other(tx, user_id, signed_user, name, signed)
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

    def _add_to_other(self, tx: WriteTx, user_id: str, other: str, name: str, signed: object) -> None:
        """Keep the user's signature of another user's master key.

        The key of another server's user may not be here: then it is shown as signed once it is the same.
        """
        if not isinstance(signed, dict):
            raise bad_json("What is signed is not a JSON object")
        master = cross_signing.keys_of(tx, other).get(MASTER)
        held = None if master is None else orjson.loads(master)
        if held is None and self._accounts.is_local(other):
            raise MatrixError(404, "M_NOT_FOUND", "The user has no master key")
        if signing_key(other, MASTER, signed) is None or not is_user_id(other):
            raise invalid_param("Of other users, master keys alone are signed")
        key_id = f"ed25519:{name}"
        if key_id not in (public_keys(signed) or {}) or (held is not None and _bare(held) != _bare(signed)):
            raise invalid_param("What is signed is not the master key of that user")
        mine = cross_signing.keys_of(tx, user_id).get(USER_SIGNING)
        signers = (public_keys(orjson.loads(mine)) or {}) if mine is not None else {}
        ((signer_key, signature),) = _signatures(signed, user_id, signers).items()
        known = cross_signing.signatures_by(tx, user_id, [other])
        new = UserSignature(other, key_id, signer_key, signature)
        if known == [new]:
            return
        if not known and cross_signing.count_signatures(tx, user_id) >= MAX_SIGNED_USERS:
            raise invalid_param(f"A user signs the keys of at most {MAX_SIGNED_USERS} others here")
        position = tx.next_position()
        cross_signing.put_signature(tx, user_id, new, position)
        self._news.signed(tx, user_id, position)

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


def _signatures(signed: Mapping[str, Any], user_id: str, signers: Mapping[str, bytes]) -> dict[str, str]:
    """key id -> signature of those in `signed` that are valid, by `signers`. Raises 400 if there is none."""
    given = signed.get("signatures")
    mine = given.get(user_id) if isinstance(given, dict) else None
    valid = {
        key_id: signature
        for key_id, signature in (mine.items() if isinstance(mine, dict) else ())
        if key_id in signers
        and verify_json({**_bare(signed), "signatures": {user_id: {key_id: signature}}}, user_id, signers)
    }
    if not valid:
        raise MatrixError(400, "M_INVALID_SIGNATURE", "There is no valid signature by a key of the user's")
    return valid


def _merged(
    held: Mapping[str, Any], signed: Mapping[str, Any], user_id: str, signers: Mapping[str, bytes]
) -> str:
    """The JSON text of `held` with the signatures of `signed` by `signers`. Raises 400."""
    if _bare(held) != _bare(signed):
        raise invalid_param("What is signed is not what this server has")
    new = _signatures(signed, user_id, signers)
    old = held.get("signatures")
    signatures = dict(old) if isinstance(old, dict) else {}
    own = signatures.get(user_id)
    signatures[user_id] = {**(own if isinstance(own, dict) else {}), **new}
    text = orjson.dumps({**_bare(held), "signatures": signatures})
    if len(text) > MAX_IDENTITY_BYTES:
        raise invalid_param("The key has too many signatures")
    return text.decode()
