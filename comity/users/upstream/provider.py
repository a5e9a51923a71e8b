"""One OpenID provider: what it publishes, and what it is asked (OpenID Connect Core §3.1, Discovery §4).

Owns the discovery document and the keys, remembered for a while; the address that a browser is sent to; and
the exchange of a code for who signed in. Never decides whose account that is, nor keeps a sign-in that is
under way.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import orjson

from comity.config import OidcProvider
from comity.ports import Clock, Outbound, TransportError
from comity.users.upstream import id_token
from comity.users.upstream.id_token import Expected, Key, NotGenuineError, UnknownKeyError

#: Seconds that the provider has for one answer: a person waits.
ASK_SECONDS = 10.0
#: Bytes of a document of the provider's: the largest known ones have some ten thousand.
MAX_DOCUMENT_BYTES = 256 * 1024
#: Seconds for which the discovery document and the keys are believed.
BELIEVED_SECONDS = 3600.0
#: Seconds before the keys are fetched again for the sake of a token whose key is not among them.
LEAST_KEYS_SECONDS = 30.0
#: Characters of an address that the provider names.
MAX_URL_CHARACTERS = 2_000
#: Characters of an access token: it is shown to the provider once more, and forgotten.
MAX_ACCESS_TOKEN_CHARACTERS = 64 * 1024
#: Characters of a claim that is read.
MAX_CLAIM_CHARACTERS = 500
#: Redirects that a provider may answer a question for its documents with.
MAX_REDIRECTS = 2
#: ASCII without spaces.
_VISIBLE = re.compile(r"[!-~]+")
#: Hosts at which plain HTTP is spoken, as `comity.config.values.issuer` allows.
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class ProviderError(Exception):
    """The provider cannot be used, or what it says proves nothing; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signed in at a provider, as far as it tells. `email` is None unless it is theirs for certain."""

    provider: str
    issuer: str
    subject: str
    preferred_username: str | None = None
    display_name: str | None = None
    email: str | None = None
    verified_email: str | None = None

    @property
    def shown(self) -> str:
        """What tells this person from another one to a reader."""
        return self.email or self.preferred_username or self.display_name or self.subject


@dataclass(frozen=True, slots=True)
class _Discovered:
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    #: Whether the secret is sent as HTTP's basic authentication, rather than in the form.
    basic: bool
    #: Whether answers name their issuer (RFC 9207).
    names_issuer: bool


class Provider:
    """One provider of the configuration."""

    def __init__(
        self, name: str, config: OidcProvider, redirect_uri: str, outbound: Outbound, clock: Clock
    ) -> None:
        self.name = name
        self.config = config
        self.redirect_uri = redirect_uri
        self._outbound = outbound
        self._clock = clock
        self._discovered: tuple[float, _Discovered] | None = None
        self._keys: tuple[float, list[Key]] | None = None

    @property
    def shown(self) -> str:
        """What people are shown."""
        return self.config.display_name or self.name

    async def authorization_url(self, state: str, nonce: str, verifier: str) -> str:
        """Where a browser is sent to sign in (RFC 6749 §4.1.1, RFC 7636 §4.3). Raises ProviderError."""
        discovered = await self._discover()
        challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": " ".join(dict.fromkeys(("openid", *self.config.scopes))),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        url = discovered.authorization_endpoint
        return url + ("&" if "?" in url else "?") + urlencode(query)

    async def check_issuer(self, named: str | None) -> None:
        """Whether an answer that names `named` as its issuer may be this provider's (RFC 9207 §2.4).

        Raises ProviderError.
        """
        if named is None and not (await self._discover()).names_issuer:
            return
        if named != self.config.issuer:
            raise ProviderError(f"the answer is of the issuer {str(named)[:200]!r}")

    async def identify(self, code: str, nonce: str, verifier: str) -> Identity:
        """Who signed in, for the code that their browser brought. Raises ProviderError."""
        discovered = await self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": verifier,
        }
        answer = await self._ask("POST", discovered.token_endpoint, *self._authenticated(form, discovered))
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise ProviderError("the answer to the code has no ID token: is openid among the scopes?")
        claims = await self._claims(token, nonce, discovered)
        access_token = answer.get("access_token")
        if discovered.userinfo_endpoint is not None and isinstance(access_token, str):
            claims = await self._with_userinfo(claims, discovered.userinfo_endpoint, access_token)
        return self._identity(claims)

    def _authenticated(
        self, form: dict[str, str], discovered: _Discovered
    ) -> tuple[Mapping[str, str], bytes]:
        """The headers and body of a request in which this server says who it is (RFC 6749 §2.3.1)."""
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        client_id, secret = self.config.client_id, self.config.client_secret
        if secret is not None and discovered.basic:
            pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = client_id
            if secret is not None:
                form["client_secret"] = secret
        return headers, urlencode(form).encode()

    async def _claims(self, token: str, nonce: str, discovered: _Discovered) -> Mapping[str, Any]:
        expected = Expected(self.config.issuer, self.config.client_id, nonce)
        try:
            keys = await self._read_keys(discovered.jwks_uri, BELIEVED_SECONDS)
            try:
                return id_token.checked(token, keys, expected, self._clock.now_ms())
            except UnknownKeyError:
                # The provider may have taken a new key since its keys were read.
                keys = await self._read_keys(discovered.jwks_uri, LEAST_KEYS_SECONDS)
                return id_token.checked(token, keys, expected, self._clock.now_ms())
        except NotGenuineError as error:
            raise ProviderError(str(error)) from error

    async def _with_userinfo(self, claims: Mapping[str, Any], url: str, token: str) -> Mapping[str, Any]:
        """What the ID token says, and what it leaves open as the provider tells it (§5.3)."""
        wanted = ("preferred_username", "name", "email", "email_verified")
        if all(name in claims for name in wanted) or len(token) > MAX_ACCESS_TOKEN_CHARACTERS:
            return claims
        if not _VISIBLE.fullmatch(token):
            raise ProviderError("the access token is no token")
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        told = await self._ask("GET", url, headers)
        # §5.3.4: it could be about somebody else.
        if told.get("sub") != claims["sub"]:
            raise ProviderError("the user info is about somebody else than the ID token")
        if "email" in claims:
            # An address and whether it is theirs belong together.
            told = {name: value for name, value in told.items() if name not in ("email", "email_verified")}
        return {**{name: told[name] for name in wanted if name in told}, **claims}

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        email = _text(claims, "email")
        if email is not None and "@" not in email:
            email = None
        return Identity(
            self.name,
            self.config.issuer,
            str(claims["sub"]),
            preferred_username=_text(claims, "preferred_username"),
            display_name=_text(claims, "name"),
            email=email,
            verified_email=email if claims.get("email_verified") is True else None,
        )

    # -- what it publishes

    async def _discover(self) -> _Discovered:
        now = self._clock.monotonic()
        if self._discovered is not None and self._discovered[0] > now:
            return self._discovered[1]
        issuer = self.config.issuer
        document = await self._fetch(issuer.rstrip("/") + "/.well-known/openid-configuration")
        # Discovery §4.3: or another provider's document could be put in the place of this one's.
        told = str(document.get("issuer"))[:MAX_URL_CHARACTERS]
        if told != issuer:
            raise ProviderError(f"it calls itself {told!r}, but oidc.{self.name}.issuer is {issuer!r}")
        methods = document.get("token_endpoint_auth_methods_supported")
        found = _Discovered(
            self._endpoint(document, "authorization_endpoint"),
            self._endpoint(document, "token_endpoint"),
            self._endpoint(document, "jwks_uri"),
            self._endpoint(document, "userinfo_endpoint") if document.get("userinfo_endpoint") else None,
            # Discovery §3: basic is what a provider that says nothing takes.
            basic=not isinstance(methods, list) or "client_secret_basic" in methods,
            names_issuer=document.get("authorization_response_iss_parameter_supported") is True,
        )
        self._discovered = (now + BELIEVED_SECONDS, found)
        return found

    def _endpoint(self, document: Mapping[str, Any], name: str) -> str:
        url = document.get(name)
        if not isinstance(url, str) or len(url) > MAX_URL_CHARACTERS or not _VISIBLE.fullmatch(url):
            raise ProviderError(f"its {name} is no URL")
        try:
            parts = urlsplit(url)
            plainly = parts.scheme == "http" and self._speaks_plainly(url)
        except ValueError:
            raise ProviderError(f"its {name} is no URL") from None
        if not parts.hostname or "#" in url or not (parts.scheme == "https" or plainly):
            raise ProviderError(f"its {name} is no https URL")
        return url

    def _speaks_plainly(self, url: str) -> bool:
        """Whether plain HTTP will do: on this machine, where the operator has said so by the issuer."""
        return self.config.issuer.startswith("http://") and urlsplit(url).hostname in _LOOPBACK_HOSTS

    async def _read_keys(self, url: str, believed_seconds: float) -> list[Key]:
        now = self._clock.monotonic()
        if self._keys is not None and now - self._keys[0] < believed_seconds:
            return self._keys[1]
        keys = id_token.read_keys(await self._fetch(url))
        self._keys = (now, keys)
        return keys

    # -- asking

    async def _fetch(self, url: str) -> Mapping[str, Any]:
        return await self._ask("GET", url, {"Accept": "application/json"}, redirects=MAX_REDIRECTS)

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None, redirects: int = 0
    ) -> Mapping[str, Any]:
        """The JSON object that it answers. Raises ProviderError."""
        try:
            answer = await self._outbound.request_url(
                method, url, headers=headers, body=body, timeout=ASK_SECONDS, max_bytes=MAX_DOCUMENT_BYTES,
                max_redirects=redirects, plain_http=self._speaks_plainly(url),
            )  # fmt: skip
        except TransportError as error:
            raise ProviderError(str(error)) from error
        where = urlsplit(url).path
        try:
            document = orjson.loads(answer.body)
        except ValueError:
            document = None
        if answer.status != 200:
            # RFC 6749 §5.2: a short code, and a sentence for developers.
            said = document if isinstance(document, dict) else {}
            told = (
                f"{str(said.get('error', ''))[:100]} {str(said.get('error_description', ''))[:200]}".strip()
            )
            raise ProviderError(f"{where} answers {answer.status} {told!r}")
        if not isinstance(document, dict):
            raise ProviderError(f"{where} answers no JSON object")
        return document


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    """A claim that is a text of a sane length."""
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CLAIM_CHARACTERS or not value.isprintable():
        return None
    return value.strip() or None
