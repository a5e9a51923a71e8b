"""The real doors: sockets, TLS, DNS and logs, on loopback."""

from __future__ import annotations
