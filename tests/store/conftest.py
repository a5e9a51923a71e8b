"""Every test here runs on both engines."""

from __future__ import annotations

from tests.engines import engine

__all__ = ["engine"]
