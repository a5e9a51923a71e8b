"""Server notices: what the operator has to say to a user, in a room of the two.

client-server §Server Notices. Notices wait in the database (`comity notice` puts them there, in a
process of its own) until the server looks; each is sent once, also when the server ends in the middle.
"""

from __future__ import annotations

import logging

import orjson

from comity.background import Worker
from comity.config import ServerNotices as ServerNoticesConfig
from comity.ports import Clock
from comity.protocol.build import Draft
from comity.protocol.errors import MatrixError
from comity.rooms.create import Creator, NewRoom
from comity.rooms.membership import Memberships
from comity.rooms.write import ClientTransaction, Writer
from comity.store import accounts as stored_accounts
from comity.store import server_notices as stored
from comity.store.database import (
    Database,
    StoreFailedError,
    StoreOverloadedError,
    StoreUnavailableError,
    WriteTx,
)
from comity.store.server_notices import Notice
from comity.users.account_data import AccountData
from comity.users.accounts import Accounts

_log = logging.getLogger(__name__)
#: Seconds between two looks for notices: nobody who has written one waits for longer.
LOOK_SECONDS = 5.0
#: And after a look in which one could not be sent.
RETRY_SECONDS = 60.0
#: Notices that are read at a time.
MAX_AT_ONCE = 100
TAG = "m.server_notice"
#: The specification names one type, of a server that is full; this is whatever the operator says.
NOTICE_TYPE = "org.comity.operator"


class ServerNotices(Worker):
    """Sends the notices that wait, as the server's own user."""

    def __init__(
        self,
        *,
        config: ServerNoticesConfig,
        database: Database,
        clock: Clock,
        accounts: Accounts,
        account_data: AccountData,
        creator: Creator,
        memberships: Memberships,
        writer: Writer,
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._accounts = accounts
        self._account_data = account_data
        self._creator = creator
        self._memberships = memberships
        self._writer = writer
        self._user_id = f"@{config.localpart}:{accounts.server_name}"

    async def start(self) -> None:
        """Begin to look, where the operator has named a user to speak as."""
        if self._config.localpart is None:
            return
        if not await self._database.write(self._make_user):
            _log.error("server_notices.localpart names %s, whom somebody else is: no notices", self._user_id)
            return
        await super().start()

    def _make_user(self, tx: WriteTx) -> bool:
        """Make the account that no person can use; False if it is one that somebody uses or has used."""
        now = self._clock.now_ms()
        if not stored_accounts.insert_user(tx, self._user_id, None, admin=False, now_ms=now):
            found = stored_accounts.user(tx, self._user_id)
            if found is None or found.deactivated or found.password_hash is not None:
                return False
            if stored_accounts.devices(tx, self._user_id):
                return False
        name = orjson.dumps(self._config.display_name).decode()
        stored_accounts.put_profile_field(tx, self._user_id, "displayname", name)
        return True

    async def _work(self) -> None:
        while True:
            pause = LOOK_SECONDS
            try:
                for notice in await self._database.read(lambda tx: stored.waiting(tx, MAX_AT_ONCE)):
                    if not await self._send(notice):
                        pause = RETRY_SECONDS
            except (StoreFailedError, StoreOverloadedError, StoreUnavailableError) as error:
                _log.info("server notices wait for the database: %s", error)
                pause = RETRY_SECONDS
            except Exception:  # noqa: BLE001 - one notice's trouble must not end the work on all
                _log.exception("server notices could not be sent")
                pause = RETRY_SECONDS
            await self._clock.sleep(pause)

    async def _send(self, notice: Notice) -> bool:
        """Send a notice and let go of it; False if that could not be done now."""
        try:
            if await self._accounts.exists(notice.user_id):
                await self._say(notice)
            else:
                _log.warning("a server notice was dropped: there is no user %s any more", notice.user_id)
        except MatrixError as error:
            _log.warning("a server notice for %s waits: %s", notice.user_id, error)
            return False
        await self._database.write(lambda tx: stored.delete(tx, notice.notice_id))
        return True

    async def _say(self, notice: Notice) -> None:
        user_id = notice.user_id
        room_id = await self._database.look_up(lambda tx: stored.room_of(tx, user_id))
        if room_id is None:
            room_id = await self._make_room(user_id)
        room = await self._writer.resident_room(room_id)
        if await self._memberships.membership(room, user_id) not in ("join", "invite"):
            # Before the invite, so that clients know at once what they are invited to.
            await self._account_data.put_tag(user_id, room_id, TAG, {})
            await self._memberships.invite(self._user_id, room_id, user_id)
        content = {"msgtype": "m.server_notice", "server_notice_type": NOTICE_TYPE, "body": notice.body}
        # Sent once: whoever sends it again after a crash gets the event that is there.
        transaction = ClientTransaction(self._user_id, "", "server notice", notice.notice_id)
        await self._writer.send(
            room_id, Draft("m.room.message", self._user_id, content), transaction=transaction
        )

    async def _make_room(self, user_id: str) -> str:
        name = self._config.display_name
        room_id = await self._creator.create(
            NewRoom(
                creator=self._user_id,
                preset="private_chat",
                name=name,
                creation_content={"m.federate": False},
                member_content={"displayname": name},
            )
        )
        await self._database.write(lambda tx: stored.put_room(tx, user_id, room_id))
        return room_id
