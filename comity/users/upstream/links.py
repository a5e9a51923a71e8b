"""Links between accounts and people at other providers: made, shown, ended.

Owns who may be linked to what. That somebody is who a provider says is proven by `provider`, that an account
is theirs, by whoever calls.
"""

from __future__ import annotations

from collections.abc import Mapping

from comity.config import OidcProvider
from comity.ports import Clock
from comity.protocol.errors import MatrixError, forbidden, not_found
from comity.store import accounts
from comity.store import upstream as stored
from comity.store.database import Database, Tx, WriteTx
from comity.store.upstream import Link
from comity.users.upstream.provider import Identity

#: Links of one account: a few providers, with a few accounts at each.
MAX_LINKS = 20
#: Characters that are kept of what a provider shows of somebody.
MAX_SHOWN_CHARACTERS = 200


class Links:
    """The links of every account."""

    def __init__(self, database: Database, clock: Clock, providers: Mapping[str, OidcProvider]) -> None:
        self._database = database
        self._clock = clock
        self._issuers = {provider.issuer for provider in providers.values()}

    async def user_of(self, identity: Identity) -> str | None:
        """The account that a person signs in to, ended ones included."""
        return await self._database.look_up(lambda tx: stored.user_of(tx, identity.issuer, identity.subject))

    async def of_user(self, user_id: str) -> list[Link]:
        """The links of an account, oldest first."""
        return await self._database.look_up(lambda tx: stored.of_user(tx, user_id))

    async def usable(self, user_id: str) -> list[Link]:
        """Those by which its user can sign in: links to providers that are configured."""
        if not self._issuers:
            return []
        return [link for link in await self.of_user(user_id) if link.issuer in self._issuers]

    async def link(self, user_id: str, identity: Identity) -> None:
        """Let a person sign in to an account from now on. Raises as `link_in`."""
        await self._database.write(lambda tx: self.link_in(tx, user_id, identity))

    def link_in(self, tx: WriteTx, user_id: str, identity: Identity) -> None:
        """The same in a transaction of the caller's; nothing changes if they are linked already.

        Raises 403 M_FORBIDDEN if they are linked to another account, or the account has too many links.
        """
        link = Link(
            identity.issuer, identity.subject, user_id, identity.shown[:MAX_SHOWN_CHARACTERS],
            self._clock.now_ms(),
        )  # fmt: skip
        if stored.insert(tx, link):
            if len(stored.of_user(tx, user_id)) > MAX_LINKS:
                raise forbidden(f"An account has at most {MAX_LINKS} linked sign-ins: unlink one first")
        elif stored.user_of(tx, identity.issuer, identity.subject) != user_id:
            raise already_linked()

    async def unlink(self, user_id: str, issuer: str, subject: str) -> None:
        """End a link. Raises 404 M_NOT_FOUND; 403 M_FORBIDDEN if there were no way left to sign in."""

        def store(tx: WriteTx) -> None:
            if not stored.delete(tx, user_id, issuer, subject):
                raise not_found("The account has no such link")
            if not self._can_sign_in(tx, user_id):
                raise forbidden("This is the only way to sign in to the account: set a password first")

        await self._database.write(store)

    def _can_sign_in(self, tx: Tx, user_id: str) -> bool:
        account = accounts.user(tx, user_id)
        has_password = account is not None and account.password_hash is not None
        return has_password or any(link.issuer in self._issuers for link in stored.of_user(tx, user_id))


def already_linked() -> MatrixError:
    """403 M_FORBIDDEN: one person signs in to one account."""
    return forbidden("This sign-in is linked to another account of this server already")
