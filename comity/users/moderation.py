"""Accounts that are suspended or locked, and what administrators may know of sessions.

client-server §Account moderation, §Server Administration. Owns who may do it to whom; what it stops
is decided where requests are authenticated (`comity.api.auth`) and where sessions are opened.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.protocol.errors import forbidden, invalid_param, not_found
from comity.store import accounts as stored_accounts
from comity.store import sessions as stored
from comity.store.database import Database, WriteTx
from comity.store.sessions import Connection
from comity.users.accounts import Accounts
from comity.users.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Standing:
    """How an account stands with the administrators."""

    suspended: bool
    locked: bool


class Moderation:
    """Suspends, locks and looks."""

    def __init__(self, database: Database, accounts: Accounts, sessions: Sessions) -> None:
        self._database = database
        self._accounts = accounts
        self._sessions = sessions

    async def standing(self, user_id: str, *, asked_by: str, by_admin: bool) -> Standing:
        """Whether an account is suspended or locked.

        Raises 403 M_FORBIDDEN, 400 M_INVALID_PARAM for who is not of this server, 404 M_NOT_FOUND.
        """
        await self._check_may(user_id, asked_by, by_admin)
        suspended, locked = await self._database.look_up(lambda tx: stored.moderation(tx, user_id))
        return Standing(suspended, locked)

    async def set_standing(
        self,
        user_id: str,
        *,
        asked_by: str,
        by_admin: bool,
        suspended: bool | None = None,
        locked: bool | None = None,
    ) -> None:
        """Suspend or lock an account, or end either; None leaves it. Raises as `standing`.

        Nobody does it to themselves, or to another administrator.
        """
        await self._check_may(user_id, asked_by, by_admin)

        def store(tx: WriteTx) -> None:
            set_standing_in(tx, user_id, suspended=suspended, locked=locked)
            # Their sessions are to know it with the next request.
            self._sessions.reread_in(tx, user_id)

        await self._database.write(store)

    async def _check_may(self, user_id: str, asked_by: str, by_admin: bool) -> None:
        # Before any look at accounts: who may not ask learns of none (client-server §Server Administration).
        if not by_admin:
            raise forbidden("This is for administrators of the server")
        if not self._accounts.is_local(user_id):
            raise invalid_param("User does not belong to the local server.")
        account = await self._accounts.find(user_id)
        if account is None or account.deactivated:
            raise not_found("User not found.")
        if account.admin:
            own = user_id == asked_by
            raise forbidden("That is your own account" if own else "That is another administrator")

    async def connections(self, user_id: str, *, asked_by: str, by_admin: bool) -> dict[str, object]:
        """The `devices` of `GET /admin/whois`, for the user themselves and for administrators.

        Raises 403 M_FORBIDDEN, 404 M_NOT_FOUND.
        """
        if user_id != asked_by and not by_admin:
            raise forbidden("This is for administrators of the server, and for the user alone")
        if await self._accounts.find(user_id) is None:
            raise not_found("User not found.")
        devices = await self._database.look_up(lambda tx: stored_accounts.devices(tx, user_id))
        found: dict[str, list[dict[str, object]]] = {device.device_id: [] for device in devices}
        for connection in await self._database.look_up(lambda tx: stored.connections(tx, user_id)):
            found.setdefault(connection.device_id, []).append(_shown(connection))
        # A device is one session here: logging in to it again ends the one before.
        return {device_id: {"sessions": [{"connections": shown}]} for device_id, shown in found.items()}


def set_standing_in(tx: WriteTx, user_id: str, *, suspended: bool | None, locked: bool | None) -> None:
    """Write how an account stands; None leaves it as it is."""
    was_suspended, was_locked = stored.moderation(tx, user_id)
    stored.set_moderation(
        tx,
        user_id,
        suspended=was_suspended if suspended is None else suspended,
        locked=was_locked if locked is None else locked,
    )


def _shown(connection: Connection) -> dict[str, object]:
    return {
        "ip": connection.address,
        "last_seen": connection.last_seen,
        "user_agent": connection.user_agent,
    }
