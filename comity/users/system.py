"""The parts of `users`, built in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.bus import Bus
from comity.config import Config
from comity.federation.identity_servers import IdentityServers
from comity.federation.sink import EduSink
from comity.federation.user_calls import UserCalls
from comity.ports import Ports
from comity.protocol.errors import MatrixError
from comity.store.database import Database
from comity.store.erasures import Erasures
from comity.store.events import Events
from comity.store.state import States
from comity.users.account_data import AccountData
from comity.users.accounts import Accounts
from comity.users.browsers import Browsers
from comity.users.cleaning import Cleaning
from comity.users.cross_signing import CrossSigning
from comity.users.dehydrated import DehydratedDevices
from comity.users.device_news import DeviceNews
from comity.users.devices import Devices
from comity.users.directory import UserDirectory
from comity.users.edus import Admits, Edus
from comity.users.ephemeral import Ephemeral
from comity.users.filters import Filters
from comity.users.interactive import Interactive
from comity.users.key_backup import KeyBackups
from comity.users.key_queries import KeyQueries
from comity.users.keys import Keys
from comity.users.login import Login, PasswordProof
from comity.users.login_tokens import LoginTokens
from comity.users.management import Management
from comity.users.moderation import Moderation
from comity.users.moving import Moving
from comity.users.mutual_rooms import MutualRooms
from comity.users.oauth.system import OAuthSystem
from comity.users.openid import OpenId
from comity.users.password_resets import PasswordResets
from comity.users.passwords import Passwords, cost_of
from comity.users.profile import Follow, Profiles, member_content
from comity.users.push import PushRules
from comity.users.rate_limits import MESSAGES, RateLimits
from comity.users.receipts import Receipts
from comity.users.refreshing import Refreshing
from comity.users.registration import Registration
from comity.users.remote_devices import RemoteDevices
from comity.users.reports import Reports
from comity.users.sessions import Sessions
from comity.users.shared_secret import SharedSecret
from comity.users.third_party_ids import ThirdPartyIds
from comity.users.to_device import ToDevice
from comity.users.upstream.links import Links
from comity.users.upstream.signing_in import UpstreamSignIn, sso_flow
from comity.users.validation import Validations
from comity.users.welcome import Welcome


class UserSystem:
    """Everything about users; others take from it the parts that they name."""

    def __init__(
        self,
        config: Config,
        ports: Ports,
        database: Database,
        bus: Bus,
        states: States,
        events: Events,
        calls: UserCalls,
        sink: EduSink,
        erasures: Erasures,
        identity: IdentityServers,
    ) -> None:
        clock, entropy, name = ports.clock, ports.entropy, config.server_name
        self.limits = RateLimits(clock, config.rate_limits)
        passwords = Passwords(ports.patient or ports.offload, entropy, cost_of(config.passwords))
        self.accounts = Accounts(database, passwords, clock, entropy, name)
        self.sessions = Sessions(database, clock, entropy, config.sessions)
        self.interactive = interactive = Interactive(clock, entropy)
        proof = self._build_login(config, ports, database)
        self.moderation = Moderation(database, self.accounts, self.sessions)
        self._build_reachable(config, ports, database, interactive, proof, identity)
        self.shared_secret = SharedSecret(
            config.registration.shared_secret, self.accounts, self.sessions, self.limits, clock, entropy
        )
        self.ephemeral = Ephemeral(database, bus, clock, sink, name, with_presence=config.presence.enabled)
        self.profiles = Profiles(
            database, self.accounts, self.limits, self._follow, calls, clock, self.ephemeral.presences
        )
        news = DeviceNews(bus, sink, name)
        self.devices = Devices(database, self.sessions, proof, news)
        self.management = Management(
            database=database, clock=clock, accounts=self.accounts, sessions=self.sessions, proof=proof,
            erasures=erasures, presences=self.ephemeral.presences, follow=self._follow,
            third_party_ids=self.third_party_ids, resets=self.password_resets,
        )  # fmt: skip
        self.account_data = AccountData(database, bus)
        self.filters = Filters(database)
        self.push_rules = PushRules(self.account_data)
        self.moving = Moving(self.account_data, self.push_rules)
        self.openid = OpenId(database, clock, entropy, name)
        self.mutual_rooms = MutualRooms(database)
        self.directory = UserDirectory(
            database, states, events, name, finds_all=config.users.directory == "all"
        )
        self.reports = Reports(database, clock)
        self.receipts = Receipts(database, bus, clock, sink, name)
        self._build_keys(config, ports, database, bus, calls, sink, news, proof)
        self._connected: tuple[Follow, Admits] | None = None

    def _build_keys(
        self,
        config: Config,
        ports: Ports,
        database: Database,
        bus: Bus,
        calls: UserCalls,
        sink: EduSink,
        news: DeviceNews,
        proof: PasswordProof,
    ) -> None:
        """What end-to-end encryption needs, and what other servers tell of users."""
        clock, entropy, name = ports.clock, ports.entropy, config.server_name
        self.keys = Keys(database, bus, clock, self.accounts, news)
        self.key_backups = KeyBackups(database, name)
        self.dehydrated = DehydratedDevices(database, bus, clock, self.sessions, self.keys)
        self.cross_signing = CrossSigning(database, self.accounts, news, proof, self.oauth.identity_reset)
        self._remote = RemoteDevices(database, calls, clock, news, name)
        self.key_queries = KeyQueries(database, self.keys, self.accounts, self._remote, calls)
        self.to_device = ToDevice(database, bus, clock, self.accounts, entropy, sink)
        self.cleaning = Cleaning(database, clock, self.to_device, name)
        self.edus = Edus(
            database=database, ephemeral=self.ephemeral, receipts=self.receipts, to_device=self.to_device,
            remote=self._remote, server_name=name, admits=self._admits,
        )  # fmt: skip
        self.sessions.when_device_comes(news.came_or_went)
        self.sessions.when_device_goes(self.keys.device_gone)
        self.sessions.when_device_goes(self.to_device.device_gone)
        self.sessions.when_device_goes(self.dehydrated.device_gone)

    def _build_reachable(
        self,
        config: Config,
        ports: Ports,
        database: Database,
        interactive: Interactive,
        proof: PasswordProof,
        identity: IdentityServers,
    ) -> None:
        """What has to do with addresses: who proves one may register by it, and comes back by it."""
        self.validations = Validations(
            config.email, database, ports.clock, ports.entropy, ports.mail, self.limits, config.server_name,
            config.client_base_url,
        )  # fmt: skip
        self.welcome = Welcome(
            config.registration, config.terms, database, ports.clock, self.limits, self.validations
        )
        self.registration = Registration(
            config.registration, self.accounts, self.sessions, interactive, self.limits, self.welcome
        )
        self.third_party_ids = ThirdPartyIds(
            database, ports.clock, self.limits, self.validations, proof, identity
        )
        self.password_resets = PasswordResets(
            database, self.accounts, self.sessions, interactive, self.validations, self.limits, ports.clock
        )

    def _build_login(self, config: Config, ports: Ports, database: Database) -> PasswordProof:
        """The ways to get in, and to stay in: by a password, another app, a provider, a page of our own."""
        clock, entropy = ports.clock, ports.entropy
        self.login = Login(database, self.accounts, self.sessions, self.limits, clock, sso_flow(config))
        self.links = Links(database, clock, config.oidc)
        self.browsers = Browsers(database, self.accounts, self.login, clock, entropy)
        proof = PasswordProof(self.interactive, self.login, self.limits, self.links)
        self.refreshing = Refreshing(database, self.sessions, self.limits, clock)
        self.oauth = OAuthSystem(
            database, self.sessions, self.refreshing, self.interactive, self.limits, clock, entropy,
            config.client_base_url,
        )  # fmt: skip
        self.login_tokens = LoginTokens(
            database, self.accounts, proof, self.limits, clock, entropy, config.sessions.login_token_lifetime
        )
        self.upstream = UpstreamSignIn(
            config=config, database=database, outbound=ports.outbound, clock=clock, entropy=entropy,
            accounts=self.accounts, links=self.links, interactive=self.interactive,
            login_tokens=self.login_tokens, limits=self.limits,
        )  # fmt: skip
        return proof

    def connect(self, follow: Follow, admits: Admits) -> None:
        """What users need of rooms, which are built later."""
        self._connected = (follow, admits)

    def _rooms(self) -> tuple[Follow, Admits]:
        if self._connected is None:
            raise MatrixError(503, "M_UNKNOWN", "The server is starting")
        return self._connected

    async def _follow(self, user_id: str) -> None:
        await self._rooms()[0](user_id)

    async def _admits(self, room_id: str, server: str) -> bool:
        return await self._rooms()[1](room_id, server)

    async def member_content(self, user_id: str) -> Mapping[str, Any]:
        """What a membership of a local user carries of their profile."""
        return await member_content(self.profiles, user_id)

    def admit_message(self, user_id: str) -> None:
        """Count one more event that a user sends. Raises 429 M_LIMIT_EXCEEDED."""
        self.limits.check(MESSAGES, user_id)

    async def start_asking(self) -> None:
        """Ask other servers for what an earlier run could not have of them."""
        await self._remote.start()

    async def close(self) -> None:
        """End the tasks that expire what is ephemeral, and those that ask other servers."""
        await self._remote.stop()
        await self.directory.close()
        await self.ephemeral.close()
