"""What can go wrong when another server is asked: one exception for all of it.

It says what happened in words for the log, and in fields for whoever decides what to do next.
It is never an answer to a client: `rooms` and `api` turn it into one.
"""

from __future__ import annotations

from typing import Any, Literal

#: Where it went wrong: it was not found out where the server is; its certificate does not hold; nothing
#: answered; it answered, but not as it should; or our operator does not let us talk to it.
FailureKind = Literal["discovery", "tls", "connection", "answer", "unwelcome"]


class FederationError(Exception):
    """Another server did not do what it was asked."""

    def __init__(
        self,
        server: str,
        text: str,
        *,
        status: int | None = None,
        code: str | None = None,
        body: dict[str, Any] | None = None,
        reached: bool = False,
        temporary: bool = False,
        retry_after_ms: int = 0,
        kind: FailureKind = "answer",
    ) -> None:
        """`server` is who was asked, `text` what happened.

        `status` is the HTTP status if there was an answer, `code` its `errcode` and `body` its
        JSON object (empty if it had none). `reached` says whether the request may have been
        received; `temporary` whether the same request may well succeed later; `retry_after_ms`
        is the pause that the server asked for (0 if it did not). `kind` says where it went wrong.
        """
        super().__init__(f"{server}: {text}")
        self.server = server
        self.text = text
        self.status = status
        self.code = code
        self.body: dict[str, Any] = body or {}
        self.reached = reached
        self.temporary = temporary
        self.retry_after_ms = retry_after_ms
        self.kind: FailureKind = kind
