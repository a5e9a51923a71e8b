"""The steps of server discovery, one by one, as they are shown (server-server §Resolving server names)."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from comity.cli.check.patient import Patient
from comity.cli.check.report import Step
from comity.cli.telling import span
from comity.federation.server_lists import ServerLists
from comity.ports import Answer, Endpoint, ResolverError, TransportError
from comity.protocol import canonical_json, identifiers
from comity.protocol.discovery import (
    MAX_WELL_KNOWN_BYTES,
    Discovery,
    Found,
    LookUpSrv,
    LookUpWellKnown,
    SrvAnswer,
    SrvPlace,
    Target,
    Unreachable,
    WellKnownAnswer,
)

SECTION = "Where it is"
#: Seconds for one document, as when a server is really looked for.
WELL_KNOWN_SECONDS = 10.0
#: Redirects that are followed, as when a server is really looked for.
MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


async def discover(patient: Patient) -> tuple[Target, ...]:
    """Where to connect, by priority; empty if nothing says where."""
    discovery = Discovery(patient.name)
    with patient.report.step(SECTION, "server name") as step:
        _name(patient, step, discovery)
    # How long the result is kept is of interest where something was looked up.
    looked_up = False
    while not isinstance(found := discovery.next(), Found | Unreachable):
        if isinstance(found, LookUpWellKnown):
            with patient.report.step(SECTION, ".well-known") as step:
                discovery.feed(await _well_known(patient, step, found))
        else:
            with patient.report.step(SECTION, f"SRV {found.name.partition('.')[0]}") as step:
                discovery.feed(await _srv(patient, step, found))
        looked_up = True
    with patient.report.step(SECTION, "result") as step:
        if isinstance(found, Unreachable):
            step.fail("nowhere to connect to", f"{found.reason}. Other servers cannot find it.")
            return ()
        targets = sorted(found.targets, key=lambda target: target.priority)
        step.summary = ", ".join(where(target) for target in targets)
        step.details.append(f"with a certificate for {targets[0].tls_name}")
        if looked_up:
            step.details.append(f"other servers may remember this for {span(found.cache_ms)}")
    return tuple(targets)


def _name(patient: Patient, step: Step, discovery: Discovery) -> None:
    if isinstance(discovery.next(), Unreachable):
        step.fail("not a name that can be looked for", "A server name is a host name or an IP address.")
        return
    host, port = identifiers.parse_server_name(patient.name)
    if identifiers.ip_literal(host) is not None:
        step.summary = "an IP address: connected to as it is"
    elif port is not None:
        step.summary = "a name with a port: connected to as it is, nothing else is looked up"
    else:
        step.summary = "a host name without a port"
    if patient.is_own:
        step.details.append("the server of this configuration")
    federation = patient.config.federation
    lists = ServerLists(federation.allow_servers, federation.deny_servers)
    if not patient.is_own and not lists.welcomes(patient.name):
        step.warn(
            step.summary,
            "This server does not talk to it: federation.deny_servers names it, or federation.allow_servers "
            "does not. What follows is looked at all the same.",
        )


async def _well_known(patient: Patient, step: Step, question: LookUpWellKnown) -> WellKnownAnswer:
    try:
        answer, url = await _follow(patient, step, question.url)
    except TransportError as error:
        step.warn(
            f"no document: {error}",
            "Others go on without it, after waiting for it. That is fine if no delegation is meant.",
        )
        return WellKnownAnswer(None)
    told = WellKnownAnswer(answer.status, answer.headers, answer.body, patient.clock.now_ms())
    if answer.status == 404:
        step.summary = "none (404): it does not delegate"
        return told
    if answer.status != 200:
        step.warn(
            f"status {answer.status} from {url}",
            "Others go on as if there were no document. Answer 404 if none is meant.",
        )
        return told
    try:
        document = canonical_json.parse_object(answer.body)
    except canonical_json.CanonicalJsonError:
        document = {}
    name = document.get("m.server")
    if not isinstance(name, str) or not identifiers.is_server_name(name):
        step.fail(
            f"status 200 from {url}, but no document",
            'It should be a JSON object like {"m.server": "matrix.example.org:443"}; others ignore this one.',
        )
        return told
    step.summary = f"delegates to {name}"
    kept = answer.headers.get("cache-control")
    step.details.append(f"{url}: 200" + (f", cache-control: {kept}" if kept else ""))
    kind = answer.headers.get("content-type", "")
    if patient.is_own and kind.partition(";")[0].strip().lower() != "application/json":
        step.warn(step.summary, f'Its Content-Type should be "application/json"; it is "{kind}".')
    return told


async def _follow(patient: Patient, step: Step, url: str) -> tuple[Answer, str]:
    """The document at a URL, and where it was in the end. Raises TransportError."""
    for _ in range(MAX_REDIRECTS + 1):
        answer = await fetch(patient, url)
        location = answer.headers.get("location")
        if answer.status not in _REDIRECTS or location is None:
            return answer, url
        url = urljoin(url, location)
        step.details.append(f"{answer.status}: redirects to {url}")
    raise TransportError(f"more than {MAX_REDIRECTS} redirects")


async def fetch(patient: Patient, url: str) -> Answer:
    """GET one https URL, with no redirect followed. Raises TransportError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        raise TransportError(f"{url} is no valid URL") from None
    if parts.scheme != "https" or not host:
        raise TransportError(f"{url} is no https URL, so others do not follow it")
    if parts.username is not None:
        raise TransportError("a URL with a user name in it is not followed")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return await patient.transport.request(
        "GET", Endpoint(host, port, host, parts.netloc), target,
        headers={}, timeout=WELL_KNOWN_SECONDS, max_bytes=MAX_WELL_KNOWN_BYTES,
    )  # fmt: skip


async def _srv(patient: Patient, step: Step, question: LookUpSrv) -> SrvAnswer:
    try:
        records = await patient.resolver.srv(question.name)
    except ResolverError as error:
        step.warn(
            "no answer from the name servers",
            f"It was said: {error}. Others go on as if there were no record; look at the name servers of "
            "that domain.",
        )
        return SrvAnswer(failed=True)
    if not records:
        step.summary = f"no record {question.name}"
    else:
        step.summary = f"{len(records)} record{'' if len(records) == 1 else 's'} {question.name}"
        step.details += [
            f"{record.target}:{record.port}  priority {record.priority}, weight {record.weight}"
            for record in records
        ]
        if question.name.startswith("_matrix._tcp"):
            step.warn(
                step.summary,
                "_matrix._tcp is deprecated and may be ignored some day: name it _matrix-fed._tcp.",
            )
    return SrvAnswer(
        tuple(SrvPlace(record.target, record.port, record.priority, record.weight) for record in records)
    )


def where(target: Target) -> str:
    """A place as people write it: host and port."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{host}:{target.port}"
