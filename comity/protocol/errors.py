"""Errors with two faces: what happened (for the operator), what may be told (for the peer).

`MatrixError` is an answer to a client or a server (client-server §Standard error response).
A rejected, soft-failed or dropped event is a value (`comity.protocol.admission`), never one
of these.
"""

from __future__ import annotations

from collections.abc import Mapping


class MatrixError(Exception):
    """A standard error answer: HTTP `status`, `errcode`, a sentence that is safe to tell."""

    def __init__(
        self,
        status: int,
        code: str,
        text: str,
        *,
        extra: Mapping[str, object] | None = None,
        detail: str = "",
    ) -> None:
        """`extra` is merged into the answer's body; `detail` is for the log alone."""
        super().__init__(f"{status} {code}: {text}" + (f" ({detail})" if detail else ""))
        self.status = status
        self.code = code
        self.text = text
        self.extra: Mapping[str, object] = extra or {}

    def body(self) -> dict[str, object]:
        """The JSON body of the answer."""
        return {"errcode": self.code, "error": self.text, **self.extra}


def forbidden(text: str) -> MatrixError:
    """403 M_FORBIDDEN."""
    return MatrixError(403, "M_FORBIDDEN", text)


def guest_access_forbidden(text: str) -> MatrixError:
    """403 M_GUEST_ACCESS_FORBIDDEN: a full account may do it, a guest may not."""
    return MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", text)


def user_suspended() -> MatrixError:
    """403 M_USER_SUSPENDED (client-server §Account suspension)."""
    return MatrixError(403, "M_USER_SUSPENDED", "You cannot perform this action while suspended.")


def not_found(text: str) -> MatrixError:
    """404 M_NOT_FOUND."""
    return MatrixError(404, "M_NOT_FOUND", text)


def invalid_param(text: str) -> MatrixError:
    """400 M_INVALID_PARAM."""
    return MatrixError(400, "M_INVALID_PARAM", text)


def missing_param(text: str) -> MatrixError:
    """400 M_MISSING_PARAM."""
    return MatrixError(400, "M_MISSING_PARAM", text)


def bad_json(text: str) -> MatrixError:
    """400 M_BAD_JSON: JSON, but not of the shape that was asked for."""
    return MatrixError(400, "M_BAD_JSON", text)


def unauthorized(text: str) -> MatrixError:
    """401 M_UNAUTHORIZED: a server's request is not signed as it must be."""
    return MatrixError(401, "M_UNAUTHORIZED", text)


def too_large(text: str) -> MatrixError:
    """413 M_TOO_LARGE."""
    return MatrixError(413, "M_TOO_LARGE", text)


class EventFormatError(ValueError):
    """An event is not of its room version's format: it is dropped, never stored."""
