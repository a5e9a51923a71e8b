"""What every part of `comity check` works with: the server looked at, and the doors to it."""

from __future__ import annotations

from dataclasses import dataclass

from comity.cli.check.report import Report
from comity.config import Config
from comity.net.tls_probe import TlsProber
from comity.ports import Clock, Resolver, Transport
from comity.protocol.signing import SigningKey


@dataclass(frozen=True, slots=True)
class Patient:
    """The server that is looked at, and by what means."""

    name: str
    config: Config
    #: Our signing key; None if there is none yet.
    key: SigningKey | None
    transport: Transport
    resolver: Resolver
    prober: TlsProber
    clock: Clock
    report: Report

    @property
    def is_own(self) -> bool:
        """Whether it is the server of this configuration."""
        return self.name == self.config.server_name
