"""The keys of sign-in through other providers, by OpenID Connect.

As `comity.config.tree`, of which this is a part: declarations alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.config import values
from comity.config.values import key


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcProvider:
    """A provider by which people sign in (OpenID Connect), for each a section of its own. NAME is yours to
    choose, of A-Z, a-z, 0-9, _ and -. At the provider, this server is registered with the address
    https://SERVER_NAME/_comity/upstream/NAME/callback (or public.client_base_url in the place of
    https://SERVER_NAME). Accounts are linked to the issuer, and to what it calls each person, for good.
    """

    issuer: str = key(
        values.issuer,
        values.REQUIRED,
        "The provider's issuer, exactly as it names itself; its discovery document is below it, at "
        "/.well-known/openid-configuration.",
        example="https://accounts.example.com",
    )
    client_id: str = key(
        values.text, values.REQUIRED, "What the provider calls this server.", example="comity"
    )
    client_secret: str | None = key(
        values.text,
        None,
        "The secret that the provider gave this server, if it did.",
        secret=True,
        example="a long random text",
    )
    display_name: str | None = key(
        values.text, None, "What people are shown, instead of NAME.", example="Example"
    )
    brand: str | None = key(
        values.brand,
        None,
        'Which well-known provider it is, for apps that show its mark: "google", "github" and others.',
        example="google",
    )
    icon: str | None = key(
        values.mxc,
        None,
        "The mxc:// address of an icon for apps to show.",
        example="mxc://example.org/abc123",
    )
    scopes: tuple[str, ...] = key(
        values.list_of(values.scope),
        ["openid", "profile", "email"],
        "What the provider is asked to tell. openid is asked for in any case.",
    )
    register: bool = key(
        values.flag,
        True,
        "Whether whoever comes for the first time may make an account. If anybody at all can have an account "
        "with the provider, anybody at all can have one here.",
    )
    localpart: str = key(
        values.one_of("preferred_username", "email", "sub", "ask"),
        "preferred_username",
        'What a new account is named after: that claim of the provider (of "email", what stands before the '
        '@); people are asked where it is missing or taken. With "ask", they are asked in any case.',
    )
    link_existing: str = key(
        values.one_of("never", "verified_email"),
        "never",
        "Whether somebody new who has the same e-mail address as an account of this server is let into that "
        'account: "verified_email" if the provider says that the address is theirs. Only for a provider '
        "that you trust with every account. People can link their own accounts in any case.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleSignOn:
    """Apps that sign people in through this server's pages (m.login.sso)."""

    trusted_clients: tuple[str, ...] = key(
        values.list_of(values.page_url),
        [],
        'Addresses of apps, such as "https://app.example.org/", that are let into an account without asking '
        "its user; what is below such an address is trusted too. For every other app, people are shown where "
        "they would be signed in.",
    )
