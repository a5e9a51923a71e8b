"""What is told to OAuth 2.0 clients when something is wrong (RFC 6749 §4.1.2.1, §5.2; RFC 7591 §3.2.2)."""

from __future__ import annotations


class OAuthError(Exception):
    """An error with the code of the protocol, and a sentence for developers."""

    def __init__(self, code: str, text: str, status: int = 400) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.status = status


def invalid_request(text: str) -> OAuthError:
    """Something lacks, is there twice or is malformed."""
    return OAuthError("invalid_request", text)


def invalid_grant(text: str) -> OAuthError:
    """A code, a refresh token or a verifier is not, or no longer, good."""
    return OAuthError("invalid_grant", text)


def invalid_client(text: str) -> OAuthError:
    """There is no such client."""
    return OAuthError("invalid_client", text, 401)
