"""Names of accounts, made from what a provider tells. Pure.

appendices §Mapping from other character sets: any mapping will do; here it is the person's own choice.
"""

from __future__ import annotations

import re
import unicodedata

from comity.protocol.identifiers import is_new_localpart
from comity.users.upstream.provider import Identity

#: Characters of a name that is suggested: longer ones are no names.
MAX_SUGGESTED_CHARACTERS = 64
_UNFIT = re.compile(r"[^a-z0-9._=/+-]+")


def told(identity: Identity, claim: str) -> str | None:
    """What the provider says by that claim that an account could be named after: a localpart, or None."""
    value = {
        "preferred_username": identity.preferred_username,
        "email": identity.email.partition("@")[0] if identity.email is not None else None,
        "sub": identity.subject,
    }.get(claim)
    if value is None or not value.isascii():
        return None
    # What would have to be changed by more than its case is for the person to decide.
    localpart = value.lower()
    return localpart if is_new_localpart(localpart) else None


def suggested(identity: Identity) -> str:
    """A localpart to begin with for who is asked to choose one; may be empty, or taken."""
    email = identity.email.partition("@")[0] if identity.email is not None else None
    for text in (identity.preferred_username, email, identity.display_name):
        plain = unicodedata.normalize("NFKD", text or "").encode("ascii", "ignore").decode().lower()
        localpart = _UNFIT.sub(".", plain).strip(".")[:MAX_SUGGESTED_CHARACTERS]
        if is_new_localpart(localpart):
            return localpart
    return ""
