"""Scopes: what a client asks for (client-server §Scope)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from comity.users.oauth.errors import OAuthError

#: The longest scope: what there is, in both forms, and what other servers know beside it.
MAX_SCOPE_CHARACTERS = 2_000
#: As long as what older logins may name (`comity.users.text`).
MAX_DEVICE_ID_CHARACTERS = 255
API = "urn:matrix:client:api:*"
DEVICE = "urn:matrix:client:device:"
#: COMPAT: how clients ask that were written before v1.15 (MSC2967).
OLD_API = "urn:matrix:org.matrix.msc2967.client:api:*"
OLD_DEVICE = "urn:matrix:org.matrix.msc2967.client:device:"
#: RFC 6749 §3.3.
_TOKEN = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")


@dataclass(frozen=True, slots=True)
class Scope:
    """What is granted: the whole client-server API, for one device. `text` is it as the client wrote it."""

    text: str
    device_id: str


def parse(text: str) -> Scope:
    """What a client asks for, without what this server knows nothing of. Raises OAuthError invalid_scope."""
    if len(text) > MAX_SCOPE_CHARACTERS:
        raise _invalid(f"The scope has more than {MAX_SCOPE_CHARACTERS} characters")
    granted: list[str] = []
    devices: list[tuple[str, str]] = []
    for token in filter(None, text.split(" ")):
        if not _TOKEN.fullmatch(token):
            raise _invalid("The scope has a character that no scope may have")
        found = [
            (prefix, token.removeprefix(prefix))
            for prefix in (DEVICE, OLD_DEVICE)
            if token.startswith(prefix)
        ]
        devices += found
        if found or token in (API, OLD_API):
            granted.append(token)
    if not {API, OLD_API} & set(granted):
        raise _invalid(f"The scope lacks {API}")
    # The same device in the new and in the old form is one.
    device_ids = {device_id for _, device_id in devices}
    if len(device_ids) != 1 or len({prefix for prefix, _ in devices}) != len(devices):
        raise _invalid(f"The scope must have exactly one {DEVICE}<device_id>")
    (device_id,) = device_ids
    if not 0 < len(device_id) <= MAX_DEVICE_ID_CHARACTERS:
        raise _invalid(f"A device id has 1 to {MAX_DEVICE_ID_CHARACTERS} characters")
    return Scope(" ".join(granted), device_id)


def _invalid(text: str) -> OAuthError:
    return OAuthError("invalid_scope", text)
