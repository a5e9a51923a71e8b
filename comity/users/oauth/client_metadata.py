"""What a client says of itself when it registers: checked, and matched (client-server §Client metadata).

Pure functions. Localized values are not kept, nor what this server has no use for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from comity.users.oauth.errors import OAuthError

AUTHORIZATION_CODE = "authorization_code"
REFRESH_TOKEN = "refresh_token"  # noqa: S105 - the name of a grant
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
GRANT_TYPES = (AUTHORIZATION_CODE, REFRESH_TOKEN, DEVICE_CODE)
#: What browsers take without trouble.
MAX_URI_CHARACTERS = 2_000
MAX_NAME_CHARACTERS = 200
#: One for each system that a client runs on, and some.
MAX_REDIRECT_URIS = 20
#: No list of RFC 7591 has more values than that.
MAX_VALUES = 50
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
#: No white space, no quotes, nothing that some take for a slash.
_URI = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class ClientMetadata:
    """A client, as it is kept and shown. URIs are "" where there is none."""

    client_uri: str
    client_name: str
    logo_uri: str
    tos_uri: str
    policy_uri: str
    redirect_uris: tuple[str, ...]
    grant_types: tuple[str, ...]
    application_type: str

    @property
    def host(self) -> str:
        """The host that all its URIs are at or below."""
        return urlsplit(self.client_uri).hostname or ""

    @property
    def name(self) -> str:
        """What people are shown."""
        return self.client_name or self.host

    def told(self) -> dict[str, object]:
        """The members of the answer to a registration; JSON that `read` takes."""
        texts = {
            "client_uri": self.client_uri,
            "client_name": self.client_name,
            "logo_uri": self.logo_uri,
            "tos_uri": self.tos_uri,
            "policy_uri": self.policy_uri,
        }
        return {
            **{name: text for name, text in texts.items() if text},
            "redirect_uris": list(self.redirect_uris),
            "grant_types": list(self.grant_types),
            "response_types": ["code"] if AUTHORIZATION_CODE in self.grant_types else [],
            "token_endpoint_auth_method": "none",
            "application_type": self.application_type,
        }

    def has_redirect_uri(self, uri: str) -> bool:
        """Whether the answer to an authorization request may go there (§Redirect URI validation).

        It must be registered, to the letter; on the loopback interface, with any port.
        """
        if len(uri) > MAX_URI_CHARACTERS or not _URI.fullmatch(uri) or "#" in uri:
            return False
        if uri in self.redirect_uris:
            return True
        return self.application_type == "native" and _without_loopback_port(uri) in self.redirect_uris


def read(given: Mapping[str, Any]) -> ClientMetadata:
    """What a client registers. Raises OAuthError invalid_client_metadata or invalid_redirect_uri."""
    client_uri = _text(given, "client_uri", MAX_URI_CHARACTERS)
    if not client_uri:
        raise _invalid("client_uri is missing")
    host = _web_host(client_uri, "client_uri")
    uris = {}
    for name in ("logo_uri", "tos_uri", "policy_uri"):
        uris[name] = _text(given, name, MAX_URI_CHARACTERS)
        if uris[name] and not _is_below(_web_host(uris[name], name), host):
            raise _invalid(f"{name} is neither at the host of client_uri nor below it")
    kind = _text(given, "application_type", MAX_NAME_CHARACTERS) or "web"
    if kind not in ("web", "native"):
        raise _invalid("application_type is neither web nor native")
    if (_text(given, "token_endpoint_auth_method", MAX_NAME_CHARACTERS) or "none") != "none":
        raise _invalid("Clients have no secret here: token_endpoint_auth_method must be none")
    asked = _texts(given, "grant_types") if "grant_types" in given else [AUTHORIZATION_CODE, REFRESH_TOKEN]
    grant_types = tuple(name for name in GRANT_TYPES if name in asked)
    redirect_uris = tuple(dict.fromkeys(_texts(given, "redirect_uris"))) if "redirect_uris" in given else ()
    if len(redirect_uris) > MAX_REDIRECT_URIS:
        raise _invalid_redirect(f"There are more than {MAX_REDIRECT_URIS} redirect URIs")
    for uri in redirect_uris:
        _check_redirect_uri(uri, host, kind)
    if AUTHORIZATION_CODE in grant_types:
        if not redirect_uris:
            raise _invalid_redirect(f"The grant {AUTHORIZATION_CODE} needs a redirect URI")
        if "code" not in (_texts(given, "response_types") if "response_types" in given else ["code"]):
            raise _invalid(f"The grant {AUTHORIZATION_CODE} needs the response type code")
    elif DEVICE_CODE not in grant_types:
        raise _invalid("None of the grant types logs anybody in here")
    return ClientMetadata(
        client_uri=client_uri,
        client_name=_text(given, "client_name", MAX_NAME_CHARACTERS).strip(),
        redirect_uris=redirect_uris,
        grant_types=grant_types,
        application_type=kind,
        **uris,
    )


def form_target(uri: str) -> str:
    """A redirect URI as a policy for forms names it: its origin, or its scheme where it has no host."""
    parts = urlsplit(uri)
    if not parts.hostname or ":" in parts.hostname:
        return f"{parts.scheme}:"  # policies have no form for IPv6 addresses
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def _check_redirect_uri(uri: str, host: str, kind: str) -> None:
    """Client-server §Redirect URI validation. Raises OAuthError."""
    if len(uri) > MAX_URI_CHARACTERS or not _URI.fullmatch(uri):
        raise _invalid_redirect("A redirect URI is too long, or has a character that no URI has")
    if "#" in uri:
        raise _invalid_redirect("A redirect URI has no fragment")
    scheme, _, rest = uri.partition(":")
    if scheme.lower() == "https":
        try:
            found = _web_host(uri, "A redirect URI")
        except OAuthError as error:
            raise _invalid_redirect(error.text) from None
        if not _is_below(found, host):
            raise _invalid_redirect("A redirect URI is neither at the host of client_uri nor below it")
    elif kind != "native":
        raise _invalid_redirect("The redirect URI of a web client has the scheme https")
    elif scheme.lower() == "http":
        if _split(uri, "A redirect URI").netloc not in LOOPBACK:
            raise _invalid_redirect(
                "A redirect URI with the scheme http is at localhost, 127.0.0.1 or [::1], without a port"
            )
    else:
        prefix = ".".join(reversed(host.split(".")))
        # A name without a dot could be a scheme that means something to browsers (RFC 8252 §7.1).
        reads_as_scheme = _split(uri, "A redirect URI").scheme == scheme
        if (
            "." not in prefix
            or not reads_as_scheme
            or not (scheme == prefix or scheme.startswith(prefix + "."))
        ):
            raise _invalid_redirect(f"A scheme of one's own begins with client_uri's host reversed: {prefix}")
        if rest.startswith("//"):
            raise _invalid_redirect("A redirect URI with a scheme of one's own names no host")


def _without_loopback_port(uri: str) -> str:
    """A URI on the loopback interface without its port; others as they are."""
    found = re.match(r"(http://(?:localhost|127\.0\.0\.1|\[::1\])):([0-9]{1,5})(?=[/?]|$)", uri)
    return uri if found is None or int(found[2]) > 0xFFFF else found[1] + uri[found.end() :]


def _split(uri: str, name: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise _invalid(f"{name} is not a URI") from None
    return parts


def _web_host(uri: str, name: str) -> str:
    """The host of an https URI without a user. Raises OAuthError."""
    if not _URI.fullmatch(uri):
        raise _invalid(f"{name} has a character that no URI has")
    parts = _split(uri, name)
    host = parts.hostname or ""
    if parts.scheme != "https" or not _HOST.fullmatch(host):
        raise _invalid(f"{name} is not an https URI with the name of a host")
    if "@" in parts.netloc:
        raise _invalid(f"{name} names a user")
    return host


def _is_below(host: str, base: str) -> bool:
    return host == base or host.endswith("." + base)


def _text(given: Mapping[str, Any], name: str, most: int) -> str:
    value = given.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most or any(ord(character) < 32 for character in value):
        raise _invalid(f"{name} is not a text of at most {most} characters")
    return value


def _texts(given: Mapping[str, Any], name: str) -> list[str]:
    value = given[name]
    if (
        not isinstance(value, list)
        or len(value) > MAX_VALUES
        or not all(isinstance(part, str) for part in value)
    ):
        raise _invalid(f"{name} is not a list of at most {MAX_VALUES} texts")
    return value


def _invalid(text: str) -> OAuthError:
    return OAuthError("invalid_client_metadata", text)


def _invalid_redirect(text: str) -> OAuthError:
    return OAuthError("invalid_redirect_uri", text)
