"""Targets of OAuth 2.0: what apps say of themselves, where they send people, and the forms that they send."""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit

from comity.protocol.errors import MatrixError
from comity.users.oauth import client_metadata, scopes
from comity.users.oauth.client_metadata import LOOPBACK
from comity.users.oauth.errors import OAuthError
from comity.web.forms import parse_form
from comity.web.pages import own_address
from fuzz.target import Target, require
from fuzz.targets.servers import object_of, text_in

HOST = "client.example"


def check_client(data: bytes) -> str:
    """`{"client": metadata, "uri": where its user shall be sent}`."""
    given = object_of(data)
    client, uri = given.get("client"), text_in(given.get("uri"), "https://client.example/")
    try:
        metadata = client_metadata.read(client if isinstance(client, dict) else {})
    except OAuthError as error:
        require(error.status == 400, "no client is 400")
        return f"{error.code} {error.text[:30]}"
    require(client_metadata.read(metadata.told()) == metadata, "a client reads as it was told")
    label = "client"
    for redirect_uri in (*metadata.redirect_uris, uri):
        if not metadata.has_redirect_uri(redirect_uri):
            require(redirect_uri == uri, "what is registered is good")
            continue
        _check_destination(redirect_uri, metadata.host, metadata.application_type)
        label += f" {urlsplit(redirect_uri).scheme}"
    return label


def _check_destination(uri: str, host: str, kind: str) -> None:
    """Nobody is sent to where the client is not."""
    parts = urlsplit(uri)
    target = client_metadata.form_target(uri)
    require(not set(target) & set(" ;,'\"\\\r\n"), "a policy names one place")
    require("#" not in uri and uri.isascii() and uri.isprintable(), "a redirect URI is plain")
    if parts.scheme == "https":
        name = parts.hostname or ""
        require(name == host or name.endswith("." + host), "https leads to the client's host or below it")
        require("@" not in parts.netloc and "\\" not in uri, "no user, nothing like a slash")
    else:
        require(kind == "native", "a web client has https")
        if parts.scheme == "http":
            bare = parts.netloc.rpartition(":")[0] if parts.port is not None else parts.netloc
            require(bare in LOOPBACK, "http stays on this machine")
        else:
            require("." in parts.scheme and not parts.netloc, "a scheme of one's own has a dot and no host")


def check_form(data: bytes) -> str:
    """A form, as a browser or an app sends it; `then` is where the browser shall go on."""
    try:
        form = parse_form(data)
    except MatrixError as error:
        require(error.status == 400, "no form is 400")
        return error.text
    require(parse_form(urlencode(form)) == form, "a form reads as it is written")
    then = own_address(form.text("then"))
    require(then.startswith("/_comity/") and not set(then) & set('\\\r\n\t"#'), "nobody is led elsewhere")
    try:
        scope = scopes.parse(form.text("scope"))
    except OAuthError as error:
        return f"form {error.text[:20]}"
    require(scopes.parse(scope.text) == scope, "a scope reads as it was told")
    require(scope.device_id and scope.device_id in scope.text, "a scope has a device")
    return "form scope"


TARGETS = (
    Target(
        "oauth_clients",
        check_client,
        json=True,
        words=("client", "uri", "client_uri", "client_name", "logo_uri", "tos_uri", "policy_uri",
               "redirect_uris", "grant_types", "response_types", "application_type", "web", "native",
               "token_endpoint_auth_method", "none", "code", *client_metadata.GRANT_TYPES,
               "https://client.example/", "https://app.client.example:8443/callback?x=1",
               "http://127.0.0.1/callback", "http://[::1]:80/", "http://localhost/", "example.client.app:/x",
               "@", "#", "%2F", ":", "//", "\\", "["),
        max_bytes=32_768,
    ),
    Target(
        "forms",
        check_form,
        words=("then=", "scope=", "&", "=", "%", "+", "%00", "%ff", "%C3%A4", "%2F_comity%2F", "/_comity/",
               "//", "%5C", scopes.API, scopes.DEVICE, scopes.OLD_API, scopes.OLD_DEVICE, "%20"),
    ),
)  # fmt: skip
