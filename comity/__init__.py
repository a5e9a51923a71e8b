"""comity, a Matrix homeserver. What is where: docs/map.md."""

from __future__ import annotations

__version__ = "0.1.0"
