"""What users do with their own account: a new password, its end.

client-server §Password management, §Account deactivation. Both ask for the password again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from comity.protocol.errors import bad_json, missing_param
from comity.store import cross_signing, key_backup, personal
from comity.store.database import WriteTx
from comity.users.accounts import Accounts
from comity.users.login import PasswordProof
from comity.users.sessions import Sessions

#: Makes a user leave every room that they are in or invited to: (user id) -> when it is done.
LeaveAll = Callable[[str], Awaitable[None]]


class Management:
    """Changes of an account by its user."""

    def __init__(
        self, accounts: Accounts, sessions: Sessions, proof: PasswordProof, leave_all: LeaveAll
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._proof = proof
        self._leave_all = leave_all

    async def change_password(self, user_id: str, device_id: str, body: Mapping[str, Any]) -> None:
        """`POST /account/password`: the other devices are logged out unless the body says not to.

        Raises 400 M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM; 401 with flows.
        """
        password, logout = body.get("new_password"), body.get("logout_devices", True)
        if password is None:
            raise missing_param("The request body lacks new_password")
        if not isinstance(password, str):
            raise bad_json("new_password is not a string")
        if not isinstance(logout, bool):
            raise bad_json("logout_devices is not a boolean")
        proven = await self._proof.require("change password", user_id, body)

        def along(tx: WriteTx) -> None:
            if logout:
                self._sessions.close_all_in(tx, user_id, but=device_id)
            else:
                self._sessions.withdraw_login_tokens_in(tx, user_id)

        await self._accounts.set_password(self._proof.account_of(proven), password, along=along)
        self._proof.finish(proven)

    async def deactivate(self, user_id: str, body: Mapping[str, Any]) -> None:
        """`POST /account/deactivate`: no way back in; the user leaves every room.

        With `erase`, account data and filters go too. Raises 400 M_BAD_JSON, 401 with flows.
        """
        erase = body.get("erase", False)
        if not isinstance(erase, bool):
            raise bad_json("erase is not a boolean")
        proven = await self._proof.require("deactivate", user_id, body)

        def along(tx: WriteTx) -> None:
            self._sessions.close_all_in(tx, user_id)
            # Nobody can ever read these again.
            key_backup.delete_all(tx, user_id)
            cross_signing.forget_signatures(tx, user_id)
            if erase:
                personal.delete_account_data(tx, user_id)

        await self._accounts.deactivate(self._proof.account_of(proven), along)
        self._proof.finish(proven)
        await self._leave_all(user_id)
