"""What the server says when it is asked: its keys, its version, its clock, an answer to a signed request."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Any

from comity.cli.check.discovering import fetch
from comity.cli.check.patient import Patient
from comity.cli.check.report import Step
from comity.cli.telling import plain, span
from comity.federation.client import path
from comity.ports import Answer, Endpoint, TransportError
from comity.protocol import canonical_json, identifiers
from comity.protocol.discovery import Target
from comity.protocol.event import encode_base64
from comity.protocol.signing import parse_key_document, parse_key_document_v1, sign_request

SECTION = "Answers"
#: Seconds for one answer.
ANSWER_SECONDS = 20.0
#: Bytes of an answer: a key document has a few KiB.
MAX_ANSWER_BYTES = 256 * 1024
#: Characters told of what a server says.
MAX_TOLD = 300
#: A key document that ends sooner leaves no time to fetch the next one.
KEYS_END_SOON_MS = 3_600_000
#: A clock that is so far off: what it signs is dated wrong, and keys seem to have ended.
CLOCK_SKEW_MS = 60_000

_KEYS = "/_matrix/key/v2/server"
_KEYS_V1 = "/_matrix/key/v1"
_VERSION = "/_matrix/federation/v1/version"


class Asker:
    """Asks one server at one place."""

    def __init__(self, patient: Patient, target: Target | None) -> None:
        """`target` is None if there is no place that a connection can be made to."""
        self._patient = patient
        self._target = target
        #: How far its clock is ahead of ours, of the last answer with a date (ms).
        self._ahead: int | None = None

    async def ask(self) -> None:
        """Ask for everything, in order."""
        patient = self._patient
        if self._target is None:
            with patient.report.step(SECTION, "not asked") as step:
                step.skip("there is no connection that holds")
        else:
            await self._ask_there()
        if patient.is_own and ":" not in patient.name:
            with patient.report.step(SECTION, "well-known for apps") as step:
                await self._well_known_for_apps(step)

    async def _ask_there(self) -> None:
        patient = self._patient
        with patient.report.step(SECTION, "key document") as step:
            if (answer := await self._get(step, _KEYS)) is not None:
                await self._keys(step, answer)
        with patient.report.step(SECTION, "key document of 2014") as step:
            if (answer := await self._get(step, _KEYS_V1)) is not None:
                self._keys_v1(step, answer)
        with patient.report.step(SECTION, "version") as step:
            if (answer := await self._get(step, _VERSION)) is not None:
                self._version(step, answer)
        with patient.report.step(SECTION, "signed request") as step:
            await self._signed(step)
        with patient.report.step(SECTION, "clock") as step:
            self._clock(step)

    async def _get(self, step: Step, target: str, headers: dict[str, str] | None = None) -> Answer | None:
        """The answer, whatever it is; None if there is none, which the step then tells."""
        place = self._target
        if place is None:
            step.skip("there is no connection that holds")
            return None
        endpoint = Endpoint(place.host, place.port, place.tls_name, place.host_header)
        began = self._patient.clock.now_ms()
        try:
            answer = await self._patient.transport.request(
                "GET", endpoint, target,
                headers=headers or {}, timeout=ANSWER_SECONDS, max_bytes=MAX_ANSWER_BYTES,
            )  # fmt: skip
        except TransportError as error:
            step.fail(
                f"no answer: {error}", "The server accepts connections and does not answer: see its log."
            )
            return None
        self._note_clock(answer, began)
        return answer

    def _note_clock(self, answer: Answer, began: int) -> None:
        try:
            date = parsedate_to_datetime(answer.headers["date"])
            said = int(date.timestamp() * 1000)
        except (KeyError, ValueError, TypeError, IndexError, OverflowError):
            return
        now = self._patient.clock.now_ms()
        # The date is that of some moment between the two, in whole seconds.
        self._ahead = said - now if said > now else min(0, said + 1000 - began)

    async def _keys(self, step: Step, answer: Answer) -> None:
        patient = self._patient
        if answer.status != 200 and await self._is_of_2014():
            step.warn(
                f"not published ({answer.status}), but that of 2014 is",
                f"comity gets along with that; other servers need {_KEYS} to check what this one signs.",
            )
            return
        if answer.status != 200:
            step.fail(
                f"status {answer.status}: {_told(answer)}",
                f"Without {_KEYS} nobody can check what the server signs. Does a proxy pass /_matrix/key on?",
            )
            return
        try:
            published = parse_key_document(_json(answer), patient.name)
        except ValueError as error:
            step.fail(
                str(error),
                f"Others refuse this document: it must be the one of {patient.name}, signed by its own key.",
            )
            return
        current = [key for key in published if not key.expired]
        step.details += [f"{key.key_id} {encode_base64(key.public)}" for key in current]
        if old := len(published) - len(current):
            step.details.append(f"and {old} old key{'' if old == 1 else 's'}")
        left = min(key.valid_until_ms for key in current) - patient.clock.now_ms()
        step.summary = f"signed by its own key, valid for {span(left)}"
        if left <= 0:
            step.fail(
                f"ended {span(-left)} ago",
                "Others accept nothing signed with these keys: look at the server's clock, or restart it.",
            )
        elif left < KEYS_END_SOON_MS:
            step.warn(step.summary, "That is short: others must ask again for each few requests.")
        own = patient.key
        if (
            patient.is_own
            and own is not None
            and own.public not in {encode_base64(k.public) for k in current}
        ):
            step.fail(
                "published by another key than that of this configuration",
                f"What answers there does not sign with {patient.config.signing_key_file} ({own.key_id}): "
                "another server has this name, or an old process still runs.",
            )

    async def _is_of_2014(self) -> bool:
        """Whether the server publishes its keys as in 2014."""
        answer = await self._get(Step(SECTION, ""), _KEYS_V1)
        try:
            if answer is not None and answer.status == 200:
                parse_key_document_v1(_json(answer), self._patient.name, answer.peer_certificate or b"")
                return True
        except ValueError:
            pass
        return False

    def _keys_v1(self, step: Step, answer: Answer) -> None:
        if answer.status != 200:
            step.summary = f"not published ({answer.status}): servers of 2014 alone need it"
            return
        try:
            parse_key_document_v1(_json(answer), self._patient.name, answer.peer_certificate or b"")
        except ValueError as error:
            step.warn(
                str(error),
                "Only servers of 2014 read it. Where a proxy speaks TLS, federation.tls_certificate must be "
                "the file of its certificate.",
            )
            return
        step.summary = "signed, and its certificate is that of the connection"

    def _version(self, step: Step, answer: Answer) -> None:
        try:
            told = _json(answer).get("server")
        except ValueError:
            told = None
        if answer.status != 200 or not isinstance(told, dict):
            step.warn(
                f"status {answer.status}: {_told(answer)}",
                "Nothing depends on it; but does a proxy pass all of /_matrix/federation on to the server?",
            )
            return
        step.summary = plain(f"{told.get('name', 'no name')} {told.get('version', '')}"[:MAX_TOLD]).strip()

    async def _signed(self, step: Step) -> None:
        patient = self._patient
        if patient.is_own:
            step.skip("no server signs requests to itself; check from another one")
            return
        if patient.key is None:
            step.skip(f"there is no signing key {patient.config.signing_key_file} yet")
            return
        user = f"@comity-check:{patient.name}"
        target = path("/_matrix/federation/v1/query", "profile") + "?user_id=" + path("", user)[1:]
        own = patient.config.server_name
        header = sign_request("GET", target, own, patient.name, None, patient.key)
        answer = await self._get(step, target, {"Authorization": header})
        if answer is None:
            return
        told = f"status {answer.status}: {_told(answer)}"
        code = _code(answer)
        if answer.status == 200 or (answer.status == 404 and code != "M_UNRECOGNIZED"):
            step.summary = f"it accepts what {own} signs ({answer.status})"
        elif answer.status in (401, 403):
            step.fail(
                told,
                f"It does not accept requests of {own}. It must be able to fetch {_KEYS} there and "
                f"to find the key {patient.key.key_id} in it: see `comity check {own}`. Or it has shut this "
                "server out.",
            )
        elif answer.status == 429:
            step.warn(told, "It is asked too often just now; ask again later.")
        else:
            step.fail(
                told, "That is no answer of a homeserver to a signed request: see its log, or its proxy."
            )

    def _clock(self, step: Step) -> None:
        if self._ahead is None:
            step.skip("not known: its answers have no date")
        elif abs(self._ahead) < CLOCK_SKEW_MS:
            step.summary = "in step with the clock here"
        else:
            how = "ahead of" if self._ahead > 0 else "behind"
            step.warn(
                f"{span(abs(self._ahead))} {how} the clock here",
                "One of the two is wrong: set its clock by NTP. Until then keys seem to end, and times lie.",
            )

    async def _well_known_for_apps(self, step: Step) -> None:
        host, _ = identifiers.parse_server_name(self._patient.name)
        url = f"https://{host}/.well-known/matrix/client"
        try:
            answer = await fetch(self._patient, url)
        except TransportError as error:
            step.warn(f"none: {error}", "People must type the address of the server into their apps.")
            return
        if answer.status != 200:
            step.warn(
                f"none ({answer.status})",
                "People must type the address of the server into their apps; public.client_base_url says it.",
            )
        elif answer.headers.get("access-control-allow-origin") != "*":
            step.warn(
                f"{url} has no CORS header",
                "Apps in browsers cannot read it: send Access-Control-Allow-Origin: * with it.",
            )
        else:
            step.summary = "there, and readable for apps in browsers"


def _json(answer: Answer) -> dict[str, Any]:
    """The object that is the answer. Raises ValueError."""
    return canonical_json.parse_object(answer.body)


def _code(answer: Answer) -> str:
    try:
        return str(_json(answer).get("errcode", ""))
    except ValueError:
        return ""


def _told(answer: Answer) -> str:
    """What an error says, in a line."""
    try:
        body = _json(answer)
    except ValueError:
        return "an answer that is no JSON object"
    told = " ".join(str(body[name]) for name in ("errcode", "error") if name in body)
    return plain(told[:MAX_TOLD]) or "without an error code"
