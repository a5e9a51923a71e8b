"""Every address of every place, connected to one by one, with the certificate that is shown there."""

from __future__ import annotations

from comity.cli.check.discovering import where
from comity.cli.check.patient import Patient
from comity.cli.check.report import Step
from comity.cli.telling import moment, span
from comity.federation.certificates import is_valid_for
from comity.net.tls_probe import Certificate, Probe
from comity.protocol import identifiers
from comity.protocol.discovery import DEFAULT_PORT, Target

SECTION = "Connections"
#: A certificate that ends sooner than this should have been renewed.
ENDS_SOON_MS = 7 * 86_400_000
#: Names of a certificate that are told.
TOLD_NAMES = 6

#: OpenSSL's numbers of what is wrong with a certificate (X509_V_ERR_…).
_NOT_YET_VALID, _EXPIRED = 9, 10
_SELF_SIGNED = frozenset({18, 19})
_ISSUER_UNKNOWN = frozenset({2, 20, 21})


async def connect(patient: Patient, targets: tuple[Target, ...]) -> Target | None:
    """The first place with an address at which something can be asked; None if there is none."""
    works: Target | None = None
    for target in targets:
        for address in await _addresses(patient, target):
            is_named = address != target.host
            title = f"  {address}" if is_named else where(target)
            with patient.report.step(SECTION, title) as step:
                probe = await patient.prober.probe(address, target.port, target.tls_name)
                _judge(patient, step, target, probe)
                if works is None and _can_be_asked(patient, probe):
                    works = target
    return works


def _can_be_asked(patient: Patient, probe: Probe) -> bool:
    """Whether this server, as it is configured, would talk to who is there."""
    verifies = patient.config.federation.verify_certificates
    return probe.outcome == "ok" or (not verifies and probe.outcome in ("not trusted", "wrong name"))


async def _addresses(patient: Patient, target: Target) -> list[str]:
    if ":" in target.host or identifiers.ip_literal(target.host) is not None:
        return [target.host]
    with patient.report.step(SECTION, where(target)) as step:
        try:
            addresses = await patient.prober.addresses(target.host)
        except OSError as error:
            step.fail(
                f"no address: {error.strerror or error}",
                f"Give {target.host} an A or AAAA record, or name another host.",
            )
            return []
        step.summary = ", ".join(addresses)
        return addresses


def _judge(patient: Patient, step: Step, target: Target, probe: Probe) -> None:
    if probe.chain:
        step.details += _certificates(patient, target, probe)
    match probe.outcome:
        case "ok":
            _judge_end(patient, step, probe)
        case "not allowed":
            step.fail(
                "not connected to: a private or reserved address",
                f"If that is meant, add {probe.address} (or its network) to federation.allow_ranges. "
                "Servers elsewhere cannot reach such an address.",
            )
        case "refused":
            step.fail("connection refused", _nobody_listens(patient, target))
        case "timed out":
            step.fail(
                probe.text,
                f"A firewall drops what comes for port {target.port}, or the machine is down: open the port.",
            )
        case "unreachable":
            step.fail(
                probe.text,
                "Either this machine has no route to it (no IPv6, perhaps), or its address record is wrong.",
            )
        case "no tls":
            step.fail(
                f"TLS failed: {probe.text}",
                f"Port {target.port} must speak TLS 1.2 or newer: look at the listener or the proxy there.",
            )
        case "wrong name":
            step.fail(f"the certificate is not for {target.tls_name}", _wrong_name(target, probe))
        case _:
            step.fail(f"the certificate is not trusted: {probe.text}", _not_trusted(patient, probe))


def _judge_end(patient: Patient, step: Step, probe: Probe) -> None:
    left = probe.chain[0].not_after - patient.clock.now_ms()
    step.summary = f"{probe.tls_version}, certificate holds, {span(left)} left"
    # Short-lived certificates are renewed late, so their own length counts as well.
    length = probe.chain[0].not_after - probe.chain[0].not_before
    if left < min(ENDS_SOON_MS, length / 4):
        step.warn(step.summary, "It ends soon: see why it has not been renewed.")


def _certificates(patient: Patient, target: Target, probe: Probe) -> list[str]:
    told = []
    name = f"[{target.tls_name}]" if ":" in target.tls_name else target.tls_name
    for depth, certificate in enumerate(probe.chain):
        kind = "issuer's certificate" if depth else "certificate"
        told.append(f"{kind}: {certificate.subject}, issued by {certificate.issuer}")
        if not depth:
            valid = "valid" if is_valid_for(probe.certificate, name) else "not valid"
            told.append(f"for {_names(certificate)}: {valid} for {target.tls_name}")
        told.append(_times(patient, certificate))
    return told


def _times(patient: Patient, certificate: Certificate) -> str:
    left = certificate.not_after - patient.clock.now_ms()
    how = f"{span(left)} left" if left >= 0 else f"ended {span(-left)} ago"
    return f"until {moment(certificate.not_after)} ({how})"


def _names(certificate: Certificate) -> str:
    names = certificate.names
    if not names:
        return "no name at all"
    more = f" and {len(names) - TOLD_NAMES} more" if len(names) > TOLD_NAMES else ""
    return ", ".join(names[:TOLD_NAMES]) + more


def _nobody_listens(patient: Patient, target: Target) -> str:
    if patient.is_own and target.port == DEFAULT_PORT and target.host == target.tls_name == patient.name:
        return (
            f"Nobody listens on port {DEFAULT_PORT}, and nothing says that others should look elsewhere. Let "
            f"a listener with tls serve it, or delegate: https://{patient.name}/.well-known/matrix/server "
            f'with {{"m.server": "{patient.name}:443"}}.'
        )
    return f"Nobody listens on port {target.port} there: start the server, or correct what names that port."


def _wrong_name(target: Target, probe: Probe) -> str:
    names = _names(probe.chain[0]) if probe.chain else "others"
    return (
        f"It is for {names}. Others demand one for {target.tls_name}: get a certificate with that name, or "
        "delegate by .well-known to the host that has one."
    )


def _not_trusted(patient: Patient, probe: Probe) -> str:
    if probe.verify_code == _EXPIRED:
        return "It has expired: renew it, and have the server load the new one."
    if probe.verify_code == _NOT_YET_VALID:
        return "It is not valid yet: look at the clocks of both machines."
    if probe.verify_code in _SELF_SIGNED:
        return (
            "No authority vouches for it. Get one of a public authority; for servers of your own, name its "
            "file in federation.trusted_ca."
        )
    if probe.verify_code in _ISSUER_UNKNOWN:
        issuer = probe.chain[0].issuer if probe.chain else "its issuer"
        return (
            "The server must send its whole chain (the full chain file, not the certificate alone). Or this "
            f"one does not know the authority {issuer}: federation.trusted_ca can name its file."
        )
    return "Get a new certificate for that server."
