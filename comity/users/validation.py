"""Validation sessions: somebody says that an address is theirs, and a letter to it lets them prove it.

client-server §POST /register/email/requestToken and its like, identity-service §Establishing associations.
Owns the sessions, the letters' going out, and the check of what proves an address. Whom an address
then belongs to is `comity.users.third_party_ids`' affair. Whether an address is known here is told to
its owner alone, by letter: every answer is the same, and one letter goes out in any case.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode, urlsplit

from comity.config import Email
from comity.ports import Clock, Entropy, Letter, Mail, MailError
from comity.protocol import third_party_ids
from comity.protocol.errors import MatrixError, bad_json, invalid_param, missing_param
from comity.protocol.matching import Glob
from comity.protocol.third_party_ids import EMAIL, canonical_email, is_secret
from comity.store import third_party, validation
from comity.store.database import Database, Tx, WriteTx
from comity.store.validation import ValidationSession
from comity.users import letters
from comity.users.interactive import NotYetError
from comity.users.rate_limits import EMAILS_ASKED_FOR, EMAILS_TO_ONE, RateLimits
from comity.users.sessions import hash_of

_log = logging.getLogger(__name__)
#: What a session is for: what was proven for one is proven for nothing else.
REGISTER, ADD, RESET = "register", "add", "reset"
#: identity-service §Establishing associations: since the last change of a session.
LIFETIME_HOURS = 24
LIFETIME_MS = LIFETIME_HOURS * 3_600_000
#: Sessions that are kept, about 500 bytes each; those that end first go.
MAX_SESSIONS = 20_000
SID_LENGTH = 24
#: 12 characters of 62 can be typed, and not be guessed in MAX_FAILURES attempts.
TOKEN_LENGTH = 12
#: Wrong tokens until a new letter is needed.
MAX_FAILURES = 10
#: Characters of a URL that somebody is led to, and the largest number of an attempt.
MAX_NEXT_LINK, MAX_ATTEMPT = 2_000, 2**53 - 1
#: Whoever asked waits for the button to be pressed, and that need not be who reads the letter.
_RESET_WARNING = "Confirm it only if that was you: whoever asked can then set the password, and log in."
#: Where the page is that the link in a letter opens, and where apps hand in the code from it.
CONFIRM_PATH = "/_comity/email/confirm"
SUBMIT_PATH = "/_comity/email/submit"


class NotProvenYetError(NotYetError):
    """The session is right, and its owner has not confirmed the address yet."""

    def __init__(self) -> None:
        # COMPAT: clients that ask again and again take this code, and no other, for "not yet".
        super().__init__(
            401, "M_UNAUTHORIZED", "The e-mail address is not confirmed yet: see the letter to it"
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a letter, checked."""

    client_secret: str
    written: str
    address: str
    send_attempt: int
    next_link: str | None


class Validations:
    """Every validation session."""

    def __init__(
        self,
        config: Email,
        database: Database,
        clock: Clock,
        entropy: Entropy,
        mail: Mail,
        limits: RateLimits,
        server_name: str,
        base_url: str,
    ) -> None:
        """`base_url` is where people reach this server, without a slash at its end."""
        self.enabled = config.smtp_url is not None
        self._allowed = [Glob(pattern.casefold()) for pattern in config.allow_addresses]
        self._database = database
        self._clock = clock
        self._entropy = entropy
        self._mail = mail
        self._limits = limits
        self._server_name = server_name
        self._base_url = base_url

    # -- asking for a letter

    async def request(
        self, purpose: str, body: Mapping[str, Any], address: str, user_id: str | None = None
    ) -> dict[str, object]:
        """A request for a token by e-mail: the answer's body. `user_id` is who asks, where that is known.

        A letter goes out if `send_attempt` is greater than before. Raises 400 M_MISSING_PARAM, M_BAD_JSON,
        M_INVALID_PARAM, M_THREEPID_MEDIUM_NOT_SUPPORTED, M_THREEPID_IN_USE (for one's own address alone),
        M_EMAIL_SEND_ERROR; 403 M_THREEPID_DENIED; 429 M_LIMIT_EXCEEDED.
        """
        if not self.enabled:
            raise _not_supported("This server sends no e-mail: addresses cannot be confirmed here")
        asked = _asked(body)
        if self._allowed and not any(pattern.matches(asked.address) for pattern in self._allowed):
            raise MatrixError(403, "M_THREEPID_DENIED", "This server does not take that e-mail address")
        token = self._entropy.token(TOKEN_LENGTH)
        owner, known = await self._database.look_up(lambda tx: self._known(tx, purpose, asked))
        if purpose == ADD and user_id is not None and owner is not None and owner[0] == user_id:
            raise MatrixError(400, "M_THREEPID_IN_USE", "This e-mail address is yours already")
        if known is not None and known.send_attempt >= asked.send_attempt:
            return self._told(known.sid)
        self._limits.check(EMAILS_ASKED_FOR, address)
        self._limits.check(EMAILS_TO_ONE, asked.address)
        session = ValidationSession(
            self._entropy.token(SID_LENGTH), purpose, EMAIL, asked.address, asked.written,
            hash_of(asked.client_secret), hash_of(token), user_id, asked.send_attempt, asked.next_link,
            failures=0, validated_at=None, expires_at=self._clock.now_ms() + LIFETIME_MS,
        )  # fmt: skip
        before = known
        kept, is_first = await self._database.write(lambda tx: self._begin(tx, session, before))
        if is_first:  # else another request of the same attempt was faster: its letter is on its way
            await self._send(kept, before, self._letter(kept, token, owner))
        return self._told(kept.sid)

    def _known(
        self, tx: Tx, purpose: str, asked: Asked
    ) -> tuple[tuple[str, str] | None, ValidationSession | None]:
        """(user id, address as they wrote it) of whose the address is; the session that stands for it."""
        secret_hash = hash_of(asked.client_secret)
        session = validation.find_by_secret(tx, purpose, EMAIL, asked.address, secret_hash)
        if session is not None and session.expires_at <= self._clock.now_ms():
            session = None
        return third_party.owner_and_written(tx, EMAIL, asked.address), session

    def _begin(
        self, tx: WriteTx, session: ValidationSession, before: ValidationSession | None
    ) -> tuple[ValidationSession, bool]:
        """Keep the new session, or the new token of the one `before`; that one, and whether we are first."""
        if before is not None:
            is_first = validation.note_attempt(
                tx, before.sid, before.send_attempt, session.send_attempt, session.token_hash
            )
            return replace(before, send_attempt=session.send_attempt), is_first
        validation.forget(tx, self._clock.now_ms(), MAX_SESSIONS - 1)
        same = validation.find_by_secret(
            tx, session.purpose, session.medium, session.address, session.secret_hash
        )
        if same is not None:
            return same, False
        validation.insert(tx, session)
        return session, True

    def _letter(self, session: ValidationSession, token: str, owner: tuple[str, str] | None) -> Letter:
        """What is to be told to whoever reads what is sent to the address."""
        name, to = self._server_name, session.written
        match session.purpose:
            case "register":
                what = f"to make an account at {name} with this e-mail address"
            case "add":
                whose = "an account" if session.user_id is None else f"the account {session.user_id}"
                what = f"to add this e-mail address to {whose} at {name}"
            case _:
                whose = "an account" if owner is None else f"the account {owner[0]}"
                what = f"to set a new password for {whose} at {name}"
        if session.purpose == RESET:
            if owner is None:
                return letters.nobody_known(to, name, what)
            to = owner[1]  # what was proven, and not another way to write it
        elif owner is not None:
            return letters.already_known(owner[1], name, owner[0], what)
        subject = (
            f"A new password at {name}" if session.purpose == RESET else f"Your e-mail address at {name}"
        )
        query = urlencode({"sid": session.sid, "token": token})
        link = f"{self._base_url}{CONFIRM_PATH}?{query}"
        warning = _RESET_WARNING if session.purpose == RESET else ""
        return letters.confirmation(
            to, name, what, link, token, LIFETIME_HOURS, subject=subject, warning=warning
        )

    async def _send(
        self, session: ValidationSession, before: ValidationSession | None, letter: Letter
    ) -> None:
        try:
            await self._mail.send(letter)
        except MailError as error:
            _log.warning("a letter was not sent: %s", error)

            def withdraw(tx: WriteTx) -> None:
                if before is None:
                    validation.delete(tx, session.sid)
                else:
                    validation.withdraw_attempt(tx, session.sid, before.send_attempt, session.send_attempt)

            await self._database.write(withdraw)
            raise MatrixError(
                400, "M_EMAIL_SEND_ERROR", "The e-mail could not be sent: try again later"
            ) from None

    def _told(self, sid: str) -> dict[str, object]:
        return {"sid": sid, "submit_url": f"{self._base_url}{SUBMIT_PATH}"}

    # -- proving

    async def shown(self, sid: str, token: str, address: str) -> ValidationSession:
        """What a link in a letter is about, before anything is done. Raises as `submit`."""
        return await self._checked(sid, token, None, address)

    async def submit(
        self, sid: str, token: str, client_secret: str | None, address: str
    ) -> ValidationSession:
        """The address is proven by the token from the letter; doing it again changes nothing.

        `client_secret` is None from the page, whose link has none. Raises 400 M_TOKEN_INCORRECT,
        M_SESSION_EXPIRED, M_INVALID_PARAM; 404 M_NO_VALID_SESSION; 429 M_LIMIT_EXCEEDED.
        """
        session = await self._checked(sid, token, client_secret, address)
        now = self._clock.now_ms()
        token_hash = hash_of(token)
        if not await self._database.write(
            lambda tx: validation.validate(tx, sid, token_hash, now, now + LIFETIME_MS)
        ):
            raise _incorrect()  # a newer letter has another token
        return session

    async def _checked(
        self, sid: str, token: str, client_secret: str | None, address: str
    ) -> ValidationSession:
        self._limits.check_attempt(("", address))
        if not is_secret(sid) or len(token) > third_party_ids.MAX_SECRET:
            raise invalid_param("sid or token is not what was given out")
        session = await self._database.look_up(lambda tx: validation.find(tx, sid))
        if session is None or not _is_secret_of(session, client_secret):
            self._limits.note_attempt(("", address), failed=True)
            raise no_valid_session()
        if session.expires_at <= self._clock.now_ms() or session.failures >= MAX_FAILURES:
            raise MatrixError(
                400, "M_SESSION_EXPIRED", "This took too long, or too many tries: ask for a new letter"
            )
        if not hmac.compare_digest(session.token_hash, hash_of(token)):
            self._limits.note_attempt(("", address), failed=True)
            await self._database.write(lambda tx: validation.note_failure(tx, sid))
            raise _incorrect()
        return session

    # -- using what is proven

    async def proven(self, purpose: str, credentials: object) -> ValidationSession:
        """The session that a client names as proof of an address (`threepid_creds`), validated.

        Raises 400 M_BAD_JSON, M_MISSING_PARAM, M_THREEPID_AUTH_FAILED; NotProvenYetError.
        """
        if not isinstance(credentials, dict):
            raise missing_param("The credentials of an e-mail address (sid and client_secret) are missing")
        sid, secret = credentials.get("sid"), credentials.get("client_secret")
        if sid is None or secret is None:
            raise missing_param("The credentials of an e-mail address lack sid or client_secret")
        if not isinstance(sid, str) or not isinstance(secret, str):
            raise bad_json("sid or client_secret is not a string")
        found = None
        if is_secret(sid) and is_secret(secret):
            found = await self._database.look_up(lambda tx: validation.find(tx, sid))
        if (
            found is None
            or found.purpose != purpose
            or not _is_secret_of(found, secret)
            or found.expires_at <= self._clock.now_ms()
        ):
            raise auth_failed()
        if found.validated_at is None:
            raise NotProvenYetError
        return found

    def take_in(self, tx: WriteTx, session: ValidationSession) -> None:
        """Use a proof up, in a transaction of the caller's. Raises 400 M_THREEPID_AUTH_FAILED."""
        if not validation.take(tx, session.sid, self._clock.now_ms()):
            raise auth_failed()


def _asked(body: Mapping[str, Any]) -> Asked:
    """A request for a letter. Raises 400 M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM."""
    for name, kind in (("client_secret", str), ("email", str), ("send_attempt", int)):
        if body.get(name) is None:
            raise missing_param(f"The request body lacks {name}")
        if type(body[name]) is not kind:
            raise bad_json(f"{name} is not of type {kind.__name__}")
    if not is_secret(body["client_secret"]):
        raise invalid_param("client_secret is not 1 to 255 of 0-9 a-z A-Z . = _ -")
    if not 0 <= body["send_attempt"] <= MAX_ATTEMPT:
        raise invalid_param("send_attempt is not a number of an attempt")
    try:
        address = canonical_email(body["email"])
    except ValueError as error:
        raise invalid_param(str(error)) from None
    return Asked(
        body["client_secret"],
        body["email"],
        address,
        body["send_attempt"],
        next_link_of(body.get("next_link")),
    )


def next_link_of(value: object) -> str | None:
    """Where the browser goes on after confirming: a page of the web, and nothing that runs.

    Raises 400 M_BAD_JSON, M_INVALID_PARAM.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise bad_json("next_link is not a string")
    try:
        parts = urlsplit(value)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        # A backslash or a space would be read by browsers otherwise than here, a name before an @ by people.
        fits = fits and "@" not in parts.netloc and len(value) <= MAX_NEXT_LINK and _is_plain(value)
    except ValueError:
        fits = False
    if not fits:
        raise invalid_param(f"next_link is not an http or https URL of at most {MAX_NEXT_LINK} characters")
    return value


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and not set(text) & set(' \\"<>')


def _is_secret_of(session: ValidationSession, client_secret: str | None) -> bool:
    return client_secret is None or hmac.compare_digest(session.secret_hash, hash_of(client_secret))


def _not_supported(text: str) -> MatrixError:
    return MatrixError(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED", text)


def no_messages_to_phones() -> MatrixError:
    """400 M_THREEPID_MEDIUM_NOT_SUPPORTED, for every endpoint that asks for a text message."""
    return _not_supported("This server sends no text messages: phone numbers cannot be confirmed here")


def _incorrect() -> MatrixError:
    return MatrixError(400, "M_TOKEN_INCORRECT", "That is not the code from the newest letter")


def no_valid_session() -> MatrixError:
    """404 M_NO_VALID_SESSION."""
    return MatrixError(404, "M_NO_VALID_SESSION", "There is no such session: ask for a new letter")


def auth_failed() -> MatrixError:
    """400 M_THREEPID_AUTH_FAILED."""
    return MatrixError(
        400, "M_THREEPID_AUTH_FAILED", "The address has not been confirmed, or that was too long ago"
    )


def in_use() -> MatrixError:
    """400 M_THREEPID_IN_USE."""
    return MatrixError(400, "M_THREEPID_IN_USE", "This address belongs to another account")
