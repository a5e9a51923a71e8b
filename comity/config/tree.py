"""Every key that an operator may write: its place, its check, its default and its meaning.

The fields of these classes are the keys of the file, the classes its sections. It holds
declarations and what follows from them, and reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comity.config import values
from comity.config.contact import Email, Terms
from comity.config.network import Federation, Outbound, Policy
from comity.config.oidc import OidcProvider, SingleSignOn
from comity.config.values import key, section
from comity.protocol.pacing import Rate
from comity.protocol.room_versions import ROOM_VERSIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A place where the server waits for requests. There may be several."""

    bind: str = key(
        values.bind,
        "127.0.0.1:8008",
        'Where to listen: an address and port ("[::1]:8008" for IPv6, "0.0.0.0:8448" for everybody), or '
        '"unix:" and a path.',
    )
    serves: frozenset[str] = key(
        values.list_of(values.one_of("client", "federation"), frozenset, least=1),
        ["client", "federation"],
        'What is answered here: "client" (people\'s apps), "federation" (other servers).',
    )
    tls: bool = key(
        values.flag,
        False,
        "Whether to speak TLS with the certificate of [tls]. Leave it off behind a reverse proxy.",
    )
    client_certificates: bool = key(
        values.flag,
        False,
        "Whether to ask other servers for a TLS certificate of their own. They need not have one; one that "
        "they show must be theirs. Needs tls.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The certificate of the listeners that speak TLS."""

    certificate: Path = key(
        values.path, values.REQUIRED, "The certificate and its chain, PEM.", example="certificate.pem"
    )
    private_key: Path = key(
        values.path, values.REQUIRED, "The certificate's private key, PEM.", example="private_key.pem"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Where everything is kept."""

    url: str = key(
        values.database_url,
        "sqlite:comity.db",
        '"sqlite:" and a file name inside data_dir, or "postgresql://user:password@host/name". '
        "`comity database move` takes everything from one to the other.",
        secret=True,
    )
    connections: int = key(
        values.whole_number(1, 500),
        8,
        "Connections to PostgreSQL that read at the same time; one more writes. SQLite needs none.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Who may make an account. `comity user add` works whatever stands here."""

    enabled: bool = key(values.flag, False, "Whether people may make accounts themselves.")
    requires: str = key(
        values.one_of("token", "nothing"),
        "token",
        'What they need for it: "token" (one that you gave out) or "nothing" (anybody at all: expect abuse).',
    )
    requires_email: bool = key(
        values.flag,
        False,
        "Whether people must confirm an e-mail address beside that. Needs [email]; with [email] alone, they "
        "may name one.",
    )
    shared_secret: str | None = key(
        values.text,
        None,
        "If set, whoever knows it may make accounts, administrators included, through "
        "/_synapse/admin/v1/register (for operators' tools).",
        secret=True,
        example="a long random text",
    )
    guests: bool = key(
        values.flag,
        False,
        "Whether anybody may use this server as a guest, without an account: to look into rooms that all the "
        "world may read, and to join those that let guests in.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """How new rooms are made, and who is shown those that are published."""

    default_version: str = key(
        values.one_of(*ROOM_VERSIONS), "12", "The room version of a new room if its maker names none."
    )
    publish_without_account: bool = key(
        values.flag,
        False,
        "Whether whoever has no account is shown this server's published rooms.",
    )
    forget_upon_leave: bool = key(
        values.flag,
        False,
        "Whether a room that a user leaves, or is removed from, is forgotten for them at once: they can "
        "read nothing of it any more.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerNotices:
    """What the server itself says to its users (`comity notice`)."""

    localpart: str | None = key(
        values.localpart,
        None,
        "The user that the server speaks as, without @ and server name; nobody else can be it. Without it, "
        "there are no notices.",
        example="notices",
    )
    display_name: str = key(
        values.text, "Server notices", "What that user is called, and the room in which it speaks."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """How long people stay logged in."""

    access_token_lifetime: int = key(
        values.whole_number(10, 10**9),
        3600,
        "Seconds for which an access token is good in apps that can refresh it; those that cannot keep "
        "theirs until they log out.",
    )
    refresh_token_lifetime: int | None = key(
        values.whole_number(60, 10**9),
        None,
        "Seconds after which an app that has not been used must log in again (it keeps its device and keys). "
        "Without it, never.",
        example=7776000,
    )
    login_token_lifetime: int = key(
        values.whole_number(10, 3600),
        120,
        "Seconds in which an app must use a token by which another one of the same user logs it in.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """Logging in by OAuth 2.0, on this server's own pages."""

    enabled: bool | None = key(
        values.flag,
        None,
        "Whether apps may log people in by OAuth 2.0. Its pages are at /_comity/ of public.client_base_url; "
        "where nothing stands here, it is on once that is set: apps are sent there.",
        example=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Passwords:
    """What it costs to check a password (Argon2id). Hashes of another cost are renewed as people log in."""

    memory_kib: int = key(
        values.whole_number(8, 4 << 20),
        19456,
        "Memory that one hash takes, in KiB; up to four are made at once.",
    )
    iterations: int = key(values.whole_number(1, 1000), 2, "Passes over that memory: time, in other words.")


def _limit(per_second: float, burst: float, meaning: str) -> Any:
    default = {"per_second": per_second, "burst": burst}
    return key(values.rate(default), default, meaning)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """How often one person may do what costs much or annoys others: per_second in the long run, burst at
    once. [rate_limits.messages] or messages = { … } is the same; a number that is left out keeps its default.
    """

    enabled: bool = key(
        values.flag, True, "Whether to slow down who asks too often. Turn it off in tests only."
    )
    login_by_address: Rate = _limit(
        0.2, 20, "Logins from one address: a family behind one address starts its apps at once."
    )
    login_by_account: Rate = _limit(
        0.1, 10, "Logins to one account, from anywhere: too few to guess a password."
    )
    refreshes: Rate = _limit(5, 200, "New tokens for running sessions, asked for from one address.")
    upstream: Rate = _limit(
        0.5, 30, "Steps of signing in through another provider, from one address: begun, come back, named."
    )
    login_tokens: Rate = _limit(0.02, 3, "Tokens with which one user logs another app in.")
    proofs: Rate = _limit(0.1, 10, "Passwords and other proofs asked for again, of one user.")
    oauth_clients: Rate = _limit(0.2, 50, "Registrations of apps (OAuth 2.0) from one address.")
    device_codes: Rate = _limit(0.1, 20, "Codes for apps without a browser, asked for from one address.")
    registration: Rate = _limit(0.1, 10, "Accounts made, and asked for, from one address.")
    registration_questions: Rate = _limit(
        1, 20, "Questions from one address whether a user name or a registration token is good."
    )
    emails_asked_for: Rate = _limit(
        0.02, 10, "E-mails that confirm an address or reset a password, asked for from one network address."
    )
    emails_to_one: Rate = _limit(
        0.002, 4, "Those e-mails to one e-mail address, whoever asks: nobody's letter box is to be flooded."
    )
    identity_servers: Rate = _limit(
        0.2, 10, "What one user has this server ask identity servers: bind an address, invite by one."
    )
    nonces: Rate = _limit(20, 200, "Nonces for the operators' tools that make accounts, for one address.")
    messages: Rate = _limit(
        10, 50, "Events that one user sends: faster than anybody types, slower than a flood."
    )
    joins: Rate = _limit(
        0.5, 20, "Joins, knocks and invites of one user: each may cost work on many servers."
    )
    profile_changes: Rate = _limit(
        0.2, 10, "Changes of one user's profile: each is an event in every room that they are in."
    )
    delayed_actions: Rate = _limit(
        2,
        20,
        "What is done with one delayed event, by whoever knows its id: clients restart each again and again.",
    )
    searches: Rate = _limit(2, 20, "Searches of one user: each may be a tenth of a second of work.")
    people_searches: Rate = _limit(
        3, 50, "Searches for people of one user: apps search while somebody types."
    )
    mutual_rooms: Rate = _limit(
        2, 50, "Questions of one user for the rooms shared with others: an app asks for each person shown."
    )
    reports: Rate = _limit(0.1, 20, "Reports of one user: each is for a person to read.")
    keys: Rate = _limit(20, 500, "Requests of one user for devices' and people's keys, thousands in each.")
    to_device: Rate = _limit(20, 1000, "Requests of one user that send messages to devices, many in each.")
    key_backup: Rate = _limit(50, 3000, "Requests of one user for backups of keys: some apps take one each.")
    account: Rate = _limit(10, 300, "What one user asks and changes of devices and account.")
    account_data: Rate = _limit(10, 500, "What one user keeps here: account data, tags, filters, push rules.")
    ephemeral: Rate = _limit(
        20, 1000, "Receipts, typing and presence of one user: bots read all that is said."
    )
    reading: Rate = _limit(50, 2000, "What else one user reads: pages of history, states, members, profiles.")
    visitors: Rate = _limit(20, 1000, "What is asked from one address without an account: how to log in.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """For how long messages are kept (MSC1763). A room says it by its m.room.retention."""

    enabled: bool = key(
        values.flag,
        False,
        "Whether messages that are older than their room's lifetime are shown no more, and erased.",
    )
    default_max_lifetime_days: int | None = key(
        values.whole_number(1, 36_500),
        None,
        "The lifetime in rooms that say nothing of it, in days; without it, such rooms keep everything.",
        example=365,
    )
    allowed_min_days: int = key(
        values.whole_number(0, 36_500),
        1,
        "The shortest lifetime that a room is given, whatever it says, in days. With 0, a moderator can have "
        "everything in the room erased at once.",
    )
    allowed_max_days: int | None = key(
        values.whole_number(1, 36_500),
        None,
        "The longest lifetime that a room is given, whatever it says, in days.",
        example=1825,
    )
    purge_every_hours: int = key(
        values.whole_number(1, 24 * 366),
        24,
        "How often what is shown no more is erased from the database, in hours.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Who is there: online, idle, away."""

    enabled: bool = key(
        values.flag,
        True,
        "Whether people and other servers are told who is online. Off, everybody seems to be offline, and "
        "a large server has less to do.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayedEvents:
    """Events that people's apps schedule to be sent later (MSC4140)."""

    max_delay_seconds: int = key(
        values.whole_number(1, 366 * 24 * 3600),
        24 * 3600,
        "How far ahead an event may be scheduled, in seconds.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Who finds whom."""

    directory: str = key(
        values.one_of("shared", "all"),
        "shared",
        'Whom a search for people finds: "shared" (whoever shares a room with the searcher, or is in a room '
        'that anybody may join or read) or "all" (every account of this server as well).',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """What the world is told."""

    client_base_url: str | None = key(
        values.web_url,
        None,
        "Where apps reach this server, if that is not https://SERVER_NAME. /.well-known/matrix/client says "
        "it; if one listener serves both, /.well-known/matrix/server sends other servers there too.",
        example="https://matrix.example.org",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Whom people turn to; /.well-known/matrix/support says it."""

    contacts: tuple[values.Contact, ...] = key(
        values.list_of(values.contact),
        [],
        'Those who run the server, each as { role = "m.role.admin", matrix_id = "@admin:example.org", '
        'email_address = "admin@example.org" }; one of the two will do. "m.role.security" is for what is '
        "confidential.",
    )
    support_page: str | None = key(
        values.page_url,
        None,
        "The URL of a page that helps people with this server.",
        example="https://example.org/help",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What is written to the standard error stream."""

    level: str = key(
        values.one_of("debug", "info", "warning", "error"),
        "info",
        "The least serious kind of message to write.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """Memory that makes things fast."""

    megabytes: int = key(
        values.whole_number(16, 1 << 20), 256, "How much memory the caches may take together, in megabytes."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration."""

    server_name: str = key(
        values.server_name,
        values.REQUIRED,
        "The name of this server, the part after the colon in @user:name. It can never be changed.",
        example="example.org",
    )
    data_dir: Path = key(
        values.path,
        "data",
        "Where the signing key, the database and the media live. A relative path stands from this file.",
    )
    listeners: tuple[Listener, ...] = section(Listener, many=True)
    tls: Tls | None = section(Tls, optional=True)
    database: Database = section(Database)
    registration: Registration = section(Registration)
    terms: Terms = section(Terms)
    email: Email = section(Email)
    rooms: Rooms = section(Rooms)
    server_notices: ServerNotices = section(ServerNotices)
    sessions: Sessions = section(Sessions)
    oauth: OAuth = section(OAuth)
    passwords: Passwords = section(Passwords)
    oidc: Mapping[str, OidcProvider] = section(OidcProvider, named=True)
    sso: SingleSignOn = section(SingleSignOn)
    rate_limits: RateLimits = section(RateLimits)
    federation: Federation = section(Federation)
    outbound: Outbound = section(Outbound)
    policy: Policy = section(Policy)
    retention: Retention = section(Retention)
    delayed_events: DelayedEvents = section(DelayedEvents)
    presence: Presence = section(Presence)
    users: Users = section(Users)
    public: Public = section(Public)
    support: Support = section(Support)
    log: Log = section(Log)
    caches: Caches = section(Caches)

    @property
    def database_file(self) -> Path:
        """The file of the embedded database, where that is the engine."""
        return self.data_dir / self.database.url.removeprefix("sqlite:")

    @property
    def client_base_url(self) -> str:
        """Where apps and browsers reach this server: as configured, or by its name."""
        return self.public.client_base_url or f"https://{self.server_name}"

    @property
    def has_oauth(self) -> bool:
        """Whether apps may log people in by OAuth 2.0: by default, if it is known where browsers get to."""
        return (
            self.oauth.enabled if self.oauth.enabled is not None else self.public.client_base_url is not None
        )

    @property
    def signing_key_file(self) -> Path:
        """The file of the key that signs this server's events and requests."""
        return self.data_dir / "signing.key"

    @property
    def old_keys_file(self) -> Path:
        """The file of the keys that signed before, without their private halves."""
        return self.data_dir / "signing.old"
