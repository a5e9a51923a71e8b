"""Signing in through another provider, from the first step to the last (client-server §SSO client
login/authentication).

Owns what is under way: who was sent to which provider for what, whoever came back and has no account yet,
and who is about to let an app in. Each belongs to one browser and is good once. What a provider says is
proven by `provider`; the pages are `comity.web`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from comity.config import Config
from comity.config.contact import Policy
from comity.ports import Clock, Entropy, Outbound
from comity.protocol.errors import MatrixError, forbidden, invalid_param, not_found
from comity.protocol.third_party_ids import EMAIL, canonical_email
from comity.store import accounts as stored_accounts
from comity.store import sessions as stored_sessions
from comity.store import third_party
from comity.store.database import Database, WriteTx
from comity.users.accounts import Accounts
from comity.users.interactive import SSO, Interactive
from comity.users.login_tokens import LoginTokens
from comity.users.rate_limits import REGISTRATION, UPSTREAM, RateLimits
from comity.users.sessions import user_locked
from comity.users.upstream import clients, names
from comity.users.upstream.links import Links, already_linked
from comity.users.upstream.provider import Identity, Provider, ProviderError
from comity.users.upstream.purposes import ForLink, ForStage, Purpose
from comity.users.upstream.tickets import Tickets

_log = logging.getLogger(__name__)
#: Seconds that somebody may take to sign in at a provider: some ask for a second factor.
SIGN_IN_SECONDS = 20 * 60.0
#: Seconds to choose a name, or to look at where one would be signed in.
DECIDE_SECONDS = 15 * 60.0
#: RFC 7636 §4.1: a verifier has 43 to 128 characters.
VERIFIER_LENGTH = 64
NONCE_LENGTH = 32
#: Where providers send browsers back to, below the address of this server.
CALLBACK = "/_comity/upstream/{provider}/callback"
#: Where apps send people that cannot log in by themselves (client-server §Login Fallback).
LOGIN_FALLBACK = "/_matrix/static/client/login/"
#: What the pages are written in.
LANGUAGE = "en"
#: Characters of a code, and of an error, that a browser brings.
MAX_CODE_CHARACTERS = 8_000


@dataclass(frozen=True, slots=True)
class Came:
    """What a browser brings back from a provider (RFC 6749 §4.1.2, RFC 9207 §2)."""

    state: str = field(repr=False)
    code: str | None = field(default=None, repr=False)
    error: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Somebody signed in to an account, for that purpose."""

    user_id: str
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Somebody whom no account is linked to yet; `ticket` is what they go on with."""

    ticket: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unnamed:
    """A newcomer as the page shows them: at which provider, as whom, and what could be done."""

    provider: str
    shown: str
    suggested: str
    may_register: bool
    #: (name, URL) of what they accept with that.
    policies: Sequence[tuple[str, str]]
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class _Attempt:
    provider: str
    purpose: Purpose
    nonce: str
    verifier: str


@dataclass(frozen=True, slots=True)
class _Arrived:
    identity: Identity
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Grant:
    """An app that is about to be let in: whose account, and where it is."""

    user_id: str
    redirect_url: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The user is to be asked before an app is let in: the ticket of the `Grant`."""

    ticket: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Allowed:
    """An app is let in: where to send the browser, with the app's login token."""

    url: str = field(repr=False)


class UpstreamSignIn:
    """Every provider, and everything under way. `binding` is always what tells a browser from others."""

    def __init__(
        self,
        *,
        config: Config,
        database: Database,
        outbound: Outbound,
        clock: Clock,
        entropy: Entropy,
        accounts: Accounts,
        links: Links,
        interactive: Interactive,
        login_tokens: LoginTokens,
        limits: RateLimits,
    ) -> None:
        base_url = config.public.client_base_url or f"https://{config.server_name}"
        self._database = database
        self._clock = clock
        self._policies = config.terms.policies
        self._entropy = entropy
        self._accounts = accounts
        self._links = links
        self._interactive = interactive
        self._login_tokens = login_tokens
        self._limits = limits
        self._trusted = (*config.sso.trusted_clients, base_url + LOGIN_FALLBACK)
        self._providers = {
            name: Provider(name, provider, base_url + CALLBACK.format(provider=name), outbound, clock)
            for name, provider in config.oidc.items()
        }
        self._attempts: Tickets[_Attempt] = Tickets(clock, entropy, SIGN_IN_SECONDS)
        self._arrived: Tickets[_Arrived] = Tickets(clock, entropy, DECIDE_SECONDS)
        self._grants: Tickets[Grant] = Tickets(clock, entropy, DECIDE_SECONDS)

    def providers(self) -> list[tuple[str, str]]:
        """(its name in the configuration, what people are shown) of every provider."""
        return [(provider.name, provider.shown) for provider in self._providers.values()]

    def providers_of(self, issuers: Sequence[str]) -> list[tuple[str, str]]:
        """The same, of those that have one of those issuers."""
        return [
            (provider.name, provider.shown)
            for provider in self._providers.values()
            if provider.config.issuer in issuers
        ]

    def shown(self, issuer: str) -> str:
        """What people are shown of an issuer, which may not be configured any more."""
        return next((shown for _, shown in self.providers_of([issuer])), issuer)

    def _provider(self, name: str) -> Provider:
        provider = self._providers.get(name)
        if provider is None:
            raise not_found("This server knows no such provider to sign in with")
        return provider

    # -- there and back

    async def begin(self, name: str, purpose: Purpose, binding: bytes, address: str) -> str:
        """Where to send a browser so that its user signs in at a provider: a URL of the provider's.

        `address` is where the browser's request came from. Raises 404 M_NOT_FOUND, 429
        M_LIMIT_EXCEEDED, 502 M_UNKNOWN if the provider cannot be asked.
        """
        provider = self._provider(name)
        self._limits.check(UPSTREAM, address)
        attempt = _Attempt(
            name, purpose, self._entropy.token(NONCE_LENGTH), self._entropy.token(VERIFIER_LENGTH)
        )
        state = self._attempts.give(attempt, binding)
        try:
            return await provider.authorization_url(state, attempt.nonce, attempt.verifier)
        except ProviderError as error:
            raise _unusable(provider, error) from error

    async def come_back(self, name: str, came: Came, binding: bytes, address: str) -> SignedIn | Newcomer:
        """Who came back from a provider, and what for. A stage, or a link, is completed by then.

        Raises 400 M_INVALID_PARAM for what was not begun in that browser, 403 M_FORBIDDEN if they did not
        sign in, or as somebody who may not, 401 M_USER_LOCKED, 403 M_USER_DEACTIVATED, 404, 429, 502.
        """
        provider = self._provider(name)
        self._limits.check(UPSTREAM, address)
        attempt = self._attempts.take(came.state, binding)
        if attempt is None or attempt.provider != name:
            raise MatrixError(
                400, "M_INVALID_PARAM",
                "This sign-in was not begun in this browser, or took too long. Please begin again.",
            )  # fmt: skip
        try:
            await provider.check_issuer(came.issuer)
            if came.code is None:
                raise _refused(provider, came.error)
            identity = await provider.identify(
                came.code[:MAX_CODE_CHARACTERS], attempt.nonce, attempt.verifier
            )
        except ProviderError as error:
            raise _unusable(provider, error) from error
        return await self._arrive(provider, identity, attempt.purpose, binding, address)

    async def _arrive(
        self, provider: Provider, identity: Identity, purpose: Purpose, binding: bytes, address: str
    ) -> SignedIn | Newcomer:
        user_id = await self._links.user_of(identity)
        if isinstance(purpose, ForLink):
            if user_id is not None and user_id != purpose.user_id:
                raise already_linked()
            await self._check_standing(purpose.user_id)
            await self._links.link(purpose.user_id, identity)
            return SignedIn(purpose.user_id, purpose)
        if isinstance(purpose, ForStage):
            return await self._prove(provider, identity, user_id, purpose)
        if user_id is None:
            user_id = await self._known_by_email(provider, identity)
        if user_id is None:
            user_id = await self._named_at_once(provider, identity, address)
        if user_id is None:
            return Newcomer(self._arrived.give(_Arrived(identity, purpose), binding))
        await self._check_standing(user_id)
        return SignedIn(user_id, purpose)

    async def _prove(
        self, provider: Provider, identity: Identity, user_id: str | None, purpose: ForStage
    ) -> SignedIn:
        """Complete `m.login.sso`, if it is the session's own user who signed in."""
        under_way = self._interactive.under_way(purpose.session_id)
        if under_way is not None and (user_id is None or user_id != under_way.user_id):
            raise forbidden(
                f"At {provider.shown} you are {identity.shown}, who is not the user that the app asks for"
            )
        await self._check_standing(user_id or "")
        account = await self._accounts.find(user_id or "")
        self._interactive.note_complete(purpose.session_id, SSO, account)
        return SignedIn(user_id or "", purpose)

    async def _check_standing(self, user_id: str) -> None:
        """Raises 401 M_USER_LOCKED or 403 M_USER_DEACTIVATED."""
        account = await self._accounts.find(user_id)
        if account is None or account.deactivated:
            raise MatrixError(403, "M_USER_DEACTIVATED", "This account has been deactivated")
        _, locked = await self._database.look_up(lambda tx: stored_sessions.moderation(tx, user_id))
        if locked:
            raise user_locked()

    # -- newcomers

    async def _known_by_email(self, provider: Provider, identity: Identity) -> str | None:
        """The account with the e-mail address that a newcomer has, where the operator trusts in that."""
        if provider.config.link_existing != "verified_email" or identity.verified_email is None:
            return None
        try:
            address = canonical_email(identity.verified_email)
        except ValueError:
            return None
        user_id = await self._database.look_up(lambda tx: third_party.owner(tx, EMAIL, address))
        if user_id is not None and await self._accounts.exists(user_id):
            await self._links.link(user_id, identity)
            _log.info("%s is linked to %s by its e-mail address", user_id, provider.name)
            return user_id
        return None

    async def _named_at_once(self, provider: Provider, identity: Identity, address: str) -> str | None:
        """The new account of a newcomer whose name the provider tells; None if they are to be asked."""
        localpart = names.told(identity, provider.config.localpart)
        if not provider.config.register or localpart is None or self._policies:
            return None  # somebody has to read, or to write, something first
        try:
            return await self._create(identity, localpart, address)
        except MatrixError as error:
            if error.code not in ("M_USER_IN_USE", "M_INVALID_USERNAME"):
                raise
            return None

    def newcomer(self, ticket: str, binding: bytes) -> Unnamed:
        """Who waits to be given an account. Raises 404 M_NOT_FOUND if nobody does (any more)."""
        arrived = self._look(ticket, binding)
        provider = self._provider(arrived.identity.provider)
        return Unnamed(
            provider.shown,
            arrived.identity.shown,
            names.suggested(arrived.identity),
            provider.config.register,
            [_shown_policy(policy) for policy in self._policies],
            arrived.purpose,
        )

    async def register(
        self, ticket: str, binding: bytes, name: str, address: str, *, accepts: bool = False
    ) -> SignedIn:
        """Make an account for a newcomer, under the name that they chose.

        `accepts` is whether they accept the policies. Raises 404 M_NOT_FOUND, 403 M_FORBIDDEN; 400
        M_INVALID_USERNAME, M_USER_IN_USE or M_INVALID_PARAM, and 429 M_LIMIT_EXCEEDED, after which they
        may try again.
        """
        arrived = self._look(ticket, binding)
        if not self._provider(arrived.identity.provider).config.register:
            raise forbidden("This provider is for people who have an account already")
        if self._policies and not accepts:
            raise invalid_param("An account is for who accepts the terms")
        self._limits.check(UPSTREAM, address)
        user_id = await self._create(arrived.identity, name, address)
        self._arrived.take(ticket, binding)
        return SignedIn(user_id, arrived.purpose)

    async def link_newcomer(self, ticket: str, binding: bytes, user_id: str) -> SignedIn:
        """Link a newcomer to an account that they have just proven to be theirs.

        Raises 404 M_NOT_FOUND, 403 M_FORBIDDEN, 401 M_USER_LOCKED, 403 M_USER_DEACTIVATED.
        """
        arrived = self._look(ticket, binding)
        await self._check_standing(user_id)
        await self._links.link(user_id, arrived.identity)
        self._arrived.take(ticket, binding)
        return SignedIn(user_id, arrived.purpose)

    def _look(self, ticket: str, binding: bytes) -> _Arrived:
        arrived = self._arrived.look(ticket, binding)
        if arrived is None:
            raise not_found("This took too long, or is done already. Please sign in again.")
        return arrived

    async def _create(self, identity: Identity, name: str, address: str) -> str:
        user_id = self._accounts.new_user_id(name)
        await self._accounts.check_available(user_id)
        self._limits.check(REGISTRATION, address)
        now = self._clock.now_ms()

        def along(tx: WriteTx) -> None:
            self._links.link_in(tx, user_id, identity)
            accepted = [(policy.identifier, policy.version) for policy in self._policies]
            third_party.accept_terms(tx, user_id, accepted, now)
            if identity.display_name is not None:
                stored_accounts.put_profile_field(
                    tx, user_id, "displayname", orjson.dumps(identity.display_name).decode()
                )

        await self._accounts.create(user_id, None, along=along)
        _log.info("%s was registered through %s", user_id, identity.provider)
        return user_id

    # -- apps

    async def admit(self, user_id: str, redirect_url: str, binding: bytes) -> Asked | Allowed:
        """Let an app in whose user signed in, or have them asked if it is not trusted.

        `redirect_url` was checked (`clients.checked_redirect`).
        """
        grant = Grant(user_id, redirect_url)
        if clients.is_trusted(redirect_url, self._trusted):
            return await self._allow(grant)
        return Asked(self._grants.give(grant, binding))

    async def let_in(self, user_id: str, redirect_url: str) -> Allowed:
        """Let an app in whose user has agreed. Raises 401 M_USER_LOCKED, 403 M_USER_DEACTIVATED."""
        await self._check_standing(user_id)
        return await self._allow(Grant(user_id, redirect_url))

    def grant(self, ticket: str, binding: bytes) -> Grant:
        """What the user is asked. Raises 404 M_NOT_FOUND."""
        grant = self._grants.look(ticket, binding)
        if grant is None:
            raise not_found("This took too long, or is done already. Go back to the app, and try again.")
        return grant

    async def allow(self, ticket: str, binding: bytes) -> Allowed:
        """The user agrees. Raises 404 M_NOT_FOUND, 401 M_USER_LOCKED, 403 M_USER_DEACTIVATED."""
        grant = self.grant(ticket, binding)
        self._grants.take(ticket, binding)
        return await self.let_in(grant.user_id, grant.redirect_url)

    async def _allow(self, grant: Grant) -> Allowed:
        token = await self._login_tokens.give_to_app(grant.user_id)
        return Allowed(clients.with_token(grant.redirect_url, token))


def sso_flow(config: Config) -> Mapping[str, object] | None:
    """What `GET /login` tells of `m.login.sso`; None if there is nothing to sign in with but a password."""
    told: list[Mapping[str, object]] = []
    for name, provider in config.oidc.items():
        marks = {"icon": provider.icon, "brand": provider.brand}
        told.append(
            {
                "id": name,
                "name": provider.display_name or name,
                **{member: value for member, value in marks.items() if value is not None},
            }
        )
    flow: dict[str, object] = {"identity_providers": told} if told else {}
    if config.has_oauth:
        # §OAuth 2.0 aware clients: those that know the older API alone send people to our own pages too.
        flow["oauth_aware_preferred"] = True
    return flow or None


def _shown_policy(policy: Policy) -> tuple[str, str]:
    """(name, URL), in the language of the pages if there is one."""
    return policy.documents.get(LANGUAGE) or next(iter(policy.documents.values()))


def _refused(provider: Provider, error: str | None) -> MatrixError:
    """What is told to who did not sign in (RFC 6749 §4.1.2.1)."""
    if error == "access_denied":
        return forbidden(
            f"You did not sign in at {provider.shown}, or did not let it tell this server who you are"
        )
    _log.warning("%s sent a browser back with %r", provider.name, (error or "")[:100])
    return forbidden(f"{provider.shown} did not let you sign in. Please try again.")


def _unusable(provider: Provider, error: ProviderError) -> MatrixError:
    """502: what happened is for the operator's log."""
    return MatrixError(
        502,
        "M_UNKNOWN",
        f"Signing in with {provider.shown} does not work at the moment. Please try again later.",
        detail=f"oidc.{provider.name}: {error}",
    )
