"""What users do with their own account: a new password, its end.

client-server §Password management, §Account deactivation. Both ask for the password again; who has
forgotten it proves an e-mail address of the account instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.ports import Clock
from comity.protocol.errors import bad_json, missing_param
from comity.store import cross_signing, errands, key_backup, openid, personal, third_party
from comity.store import sessions as stored_sessions
from comity.store.accounts import User
from comity.store.database import Database, WriteTx
from comity.store.erasures import Erasures
from comity.users.accounts import Accounts
from comity.users.login import PasswordProof
from comity.users.password_resets import PasswordResets
from comity.users.presence import Presences
from comity.users.profile import Follow
from comity.users.sessions import Sessions
from comity.users.third_party_ids import ThirdPartyIds


class Management:
    """Changes of an account by its user."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        accounts: Accounts,
        sessions: Sessions,
        proof: PasswordProof,
        erasures: Erasures,
        presences: Presences,
        follow: Follow,
        third_party_ids: ThirdPartyIds,
        resets: PasswordResets,
    ) -> None:
        self._database = database
        self._clock = clock
        self._accounts = accounts
        self._sessions = sessions
        self._proof = proof
        self._erasures = erasures
        self._presences = presences
        self._follow = follow
        self._third_party_ids = third_party_ids
        self._resets = resets

    async def change_password(
        self, user_id: str | None, device_id: str | None, body: Mapping[str, Any], address: str
    ) -> None:
        """`POST /account/password`: the other devices are logged out unless the body says not to.

        Who asks without a token (None) has forgotten the password. Raises 400 M_MISSING_PARAM,
        M_BAD_JSON, M_INVALID_PARAM; 401 with flows, or M_MISSING_TOKEN where no e-mail is sent.
        """
        password, logout = body.get("new_password"), body.get("logout_devices", True)
        if password is None:
            raise missing_param("The request body lacks new_password")
        if not isinstance(password, str):
            raise bad_json("new_password is not a string")
        if not isinstance(logout, bool):
            raise bad_json("logout_devices is not a boolean")
        if user_id is None or self._resets.is_meant(body):
            await self._resets.reset(user_id, device_id, body, password, address, logout=logout)
            return
        proven = await self._proof.require("change password", user_id, body)
        account = self._proof.account_of(proven)
        await self.replace_password(account, password, log_out=logout, but=device_id)
        self._proof.finish(proven)

    async def replace_password(
        self, account: User, password: str, *, log_out: bool, but: str | None = None
    ) -> None:
        """Set a new password of who has just proven the old one, whose account is as it was then.

        With `log_out`, every device but one is logged out, and every browser. Raises 400
        M_INVALID_PARAM, 403 M_FORBIDDEN if the password has been replaced meanwhile.
        """

        def along(tx: WriteTx) -> None:
            if log_out:
                self._sessions.close_all_in(tx, account.user_id, but=but)
            else:
                self._sessions.withdraw_login_tokens_in(tx, account.user_id)

        await self._accounts.set_password(account, password, along=along)

    async def deactivate(self, user_id: str, body: Mapping[str, Any]) -> str:
        """`POST /account/deactivate`: no way back in; the user leaves every room.

        With `erase`, what they said is told redacted to whoever comes to the rooms later, and their
        account data and filters go too. The answer's `id_server_unbind_result`. Raises 400 M_BAD_JSON,
        M_INVALID_PARAM; 401 with flows.
        """
        erase = body.get("erase", False)
        if not isinstance(erase, bool):
            raise bad_json("erase is not a boolean")
        proven = await self._proof.require("deactivate", user_id, body)
        account, id_server = self._proof.account_of(proven), body.get("id_server")
        result = await self.end(account, erase=erase, id_server=id_server)
        self._proof.finish(proven)
        return result

    async def end(self, account: User, *, erase: bool, id_server: object = None) -> str:
        """Deactivate an account whose user has just proven who they are: what came of unbinding addresses.

        They are unbound from `id_server` if one is named, as a client sent it. Raises 400 M_BAD_JSON,
        M_INVALID_PARAM, 403 M_FORBIDDEN if the password has been replaced meanwhile.
        """
        user_id = account.user_id
        bindings = await self._third_party_ids.to_unbind(user_id, id_server)
        await self._accounts.deactivate(account, lambda tx: self.end_in(tx, user_id, erase=erase))
        await self._follow(user_id)
        return await self._third_party_ids.unbind_all(user_id, bindings)

    async def unbind(self, user_id: str) -> None:
        """Have identity servers forget the addresses of an account that a command has ended."""
        bindings = await self._third_party_ids.to_unbind(user_id, None)
        await self._third_party_ids.unbind_all(user_id, bindings)

    def end_in(self, tx: WriteTx, user_id: str, *, erase: bool) -> None:
        """Let go of what belongs to an account that is deactivated, in a transaction of the caller's.

        That it leaves its rooms is an errand then.
        """
        self._sessions.close_all_in(tx, user_id)
        openid.forget_user(tx, user_id)
        third_party.delete_all(tx, user_id)
        # Nobody can ever read these again.
        key_backup.delete_all(tx, user_id)
        cross_signing.forget_signatures(tx, user_id)
        if erase:
            personal.delete_account_data(tx, user_id)
            personal.delete_private_receipts(tx, user_id)
            self._erasures.add(tx, user_id, self._database)
        tx.after_commit(lambda: self._presences.forget(user_id))
        errands.drop(tx, user_id, errands.PROFILE)
        errands.put(tx, user_id, errands.DEPARTURE, self._clock.now_ms())

    def log_out_in(self, tx: WriteTx, user_id: str, since: int) -> None:
        """Delete the devices that a command has logged out at a time (ms), in a transaction of the caller's.

        Not those to which their user has logged in again since.
        """
        self._sessions.close_in(tx, user_id, stored_sessions.logged_out_devices(tx, user_id, since))
