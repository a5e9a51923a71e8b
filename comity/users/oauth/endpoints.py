"""Where the endpoints of OAuth 2.0 are, and what says so (client-server §Server metadata discovery)."""

from __future__ import annotations

from comity.users.oauth.authorization import CREATE, RESPONSE_MODES
from comity.users.oauth.client_metadata import GRANT_TYPES

AUTHORIZE = "/_comity/oauth2/authorize"
TOKEN = "/_comity/oauth2/token"  # noqa: S105 - a path
REGISTER = "/_comity/oauth2/register"
REVOKE = "/_comity/oauth2/revoke"
DEVICE = "/_comity/oauth2/device"
#: Where people enter the code of a device: short, for it may be typed.
LINK = "/_comity/link"
ACCOUNT = "/_comity/account"

#: client-server §Account management URL actions.
PROFILE = "org.matrix.profile"
DEVICES_LIST = "org.matrix.devices_list"
DEVICE_VIEW = "org.matrix.device_view"
DEVICE_DELETE = "org.matrix.device_delete"
ACCOUNT_DEACTIVATE = "org.matrix.account_deactivate"
CROSS_SIGNING_RESET = "org.matrix.cross_signing_reset"
ACTIONS = (
    PROFILE,
    DEVICES_LIST,
    DEVICE_VIEW,
    DEVICE_DELETE,
    ACCOUNT_DEACTIVATE,
    CROSS_SIGNING_RESET,
)


def issuer(base_url: str) -> str:
    """The issuer of a server that browsers reach at `base_url`."""
    return base_url.rstrip("/") + "/"


def reset_url(base_url: str) -> str:
    """The page on which users approve that their keys for signing devices are replaced."""
    return f"{base_url.rstrip('/')}{ACCOUNT}?action={CROSS_SIGNING_RESET}"


def metadata(base_url: str, *, registration_open: bool) -> dict[str, object]:
    """`GET /auth_metadata` (RFC 8414)."""
    base = base_url.rstrip("/")
    told: dict[str, object] = {
        "issuer": issuer(base_url),
        "authorization_endpoint": base + AUTHORIZE,
        "token_endpoint": base + TOKEN,
        "registration_endpoint": base + REGISTER,
        "revocation_endpoint": base + REVOKE,
        "device_authorization_endpoint": base + DEVICE,
        "response_types_supported": ["code"],
        "grant_types_supported": list(GRANT_TYPES),
        "response_modes_supported": list(RESPONSE_MODES),
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "authorization_response_iss_parameter_supported": True,
        "account_management_uri": base + ACCOUNT,
        "account_management_actions_supported": list(ACTIONS),
    }
    if registration_open:
        told["prompt_values_supported"] = [CREATE]
    return told
