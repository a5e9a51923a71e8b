"""Third-party identifiers: addresses outside of Matrix, and one way to write each (appendices §3PID Types).

Nothing here knows whose an address is, nor whether anybody reads what is sent there.
"""

from __future__ import annotations

import re

EMAIL = "email"
MSISDN = "msisdn"
#: Characters of an address; RFC 5321 §4.5.3.1.3 has 256 bytes with angle brackets around it.
MAX_ADDRESS = 254
MAX_ADDRESS_BYTES = 254
#: identity-service §Establishing associations: of client secrets, session ids and tokens.
MAX_SECRET = 255

#: Neither quotes, comments nor lists, which hold more than one address: what people have is simpler.
_EMAIL = re.compile(
    r"[^\s\x00-\x1f\x7f@<>()\[\]\\,;:\"]{1,64}@(?P<domain>[^\s\x00-\x1f\x7f@<>()\[\]\\,;:\"]+)"
)
_LABEL = re.compile(r"[^\W_](?:[\w-]{0,61}[^\W_])?")
_SECRET = re.compile(r"[0-9A-Za-z.=_-]{1,255}", re.ASCII)
_MSISDN = re.compile(r"[0-9]{1,15}", re.ASCII)


def canonical_email(text: str) -> str:
    """The one way to write an e-mail address: case-folded as a whole (appendices §E-Mail).

    Raises ValueError with a sentence for what is none.
    """
    # Folding makes some texts longer: what comes out must be an address, too.
    folded = text.casefold() if len(text) <= MAX_ADDRESS else ""
    match = _EMAIL.fullmatch(folded)
    if match is None or not text.isprintable() or _EMAIL.fullmatch(text) is None:
        raise ValueError("An e-mail address looks like user@example.org")
    if len(folded.encode("utf-8", "surrogatepass")) > MAX_ADDRESS_BYTES:
        raise ValueError(f"An e-mail address has at most {MAX_ADDRESS_BYTES} bytes")
    if not all(_LABEL.fullmatch(label) for label in match["domain"].split(".")):
        raise ValueError("What follows the @ of an e-mail address is a domain name")
    return folded


def canonical(medium: str, address: str) -> str:
    """The one way to write an address. Raises ValueError for what is none, or of an unknown medium."""
    if medium == EMAIL:
        return canonical_email(address)
    if medium == MSISDN and _MSISDN.fullmatch(address):
        return address
    raise ValueError("The address is neither an e-mail address nor a phone number of digits alone")


def is_secret(text: object) -> bool:
    """Whether it can be a client secret or a session id (identity-service §Email associations)."""
    return isinstance(text, str) and _SECRET.fullmatch(text) is not None
