"""What letters to people say: one function a letter, as plain text and as HTML alike.

Nothing in a letter is written by whoever asked for it, but for names that this server has checked: nobody
is to send their words to strangers through it. Who is written to is `comity.users.validation`'s affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from comity.ports import Letter

_FRAME = (
    '<!doctype html>\n<html lang="en"><body style="font-family: sans-serif; line-height: 1.5; '
    'max-width: 36em; margin: 1em auto">\n{}\n</body></html>\n'
)
_BUTTON = (
    '<p><a href="{0}" style="display: inline-block; padding: .6em 1.2em; border-radius: .4em; '
    'background: #1b5e9b; color: #fff; text-decoration: none">{1}</a></p>\n<p>{0}</p>'
)
_CODE = '<p style="font-family: monospace; font-size: 1.3em">{}</p>'
_IGNORE = "If that was not you, do nothing: without you, nothing happens."


def confirmation(
    to: str,
    server_name: str,
    what: str,
    link: str,
    token: str,
    hours: int,
    *,
    subject: str,
    warning: str = "",
) -> Letter:
    """Ask whether an address is theirs; `what` is what somebody wants to do, "to make an account …"."""
    before = [
        f"Somebody, most likely you, wants {what}.",
        *([warning] if warning else []),
        "If so, open this page and confirm it there:",
    ]
    code = "If your app asks for a code, it is this one:"
    after = [f"Both are good for {hours} hours.", _IGNORE]
    html = [
        *_paragraphs(before), _BUTTON.format(escape(link), "Confirm"), *_paragraphs([code]),
        _CODE.format(escape(token)), *_paragraphs(after),
    ]  # fmt: skip
    return Letter(
        to,
        subject,
        _signed([*before, link, code, token, *after], server_name),
        _FRAME.format("\n".join(html)),
    )


def already_known(to: str, server_name: str, user_id: str, what: str) -> Letter:
    """Tell who has an account that somebody named their address as that of another one."""
    return _plain(
        to,
        f"Your address at {server_name}",
        [
            f"Somebody, most likely you, wanted {what}.",
            f"But the address belongs to the account {user_id} already, so that nothing has been done.",
            "If you have forgotten that account's password, your app lets you set a new one by this address.",
            _IGNORE,
        ],
        server_name,
    )


def nobody_known(to: str, server_name: str, what: str) -> Letter:
    """Tell who has no account that somebody wanted a new password for it."""
    return _plain(
        to,
        f"Your address at {server_name}",
        [
            f"Somebody, most likely you, wanted {what}.",
            "But no account there has this address, so that nothing has been done.",
            "You may have used another address for your account, or none.",
            "If that was not you, somebody has mistaken your address for theirs; there is nothing to do.",
        ],
        server_name,
    )


def trial(to: str, server_name: str) -> Letter:
    """Whether letters arrive, for the operator to see."""
    return _plain(
        to,
        f"Letters of {server_name}",
        ["This is what letters of this server look like. That you read it means that they arrive."],
        server_name,
    )


def _plain(to: str, subject: str, paragraphs: Sequence[str], server_name: str) -> Letter:
    html = _FRAME.format("\n".join(_paragraphs(paragraphs)))
    return Letter(to, subject, _signed(paragraphs, server_name), html)


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return [f"<p>{escape(text)}</p>" for text in texts]


def _signed(paragraphs: Sequence[str], server_name: str) -> str:
    return "\n\n".join([*paragraphs, f"-- \nThis letter was written by the server {server_name}.\n"])
