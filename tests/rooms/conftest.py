"""Every test here runs on both engines, and every answer is one that the specification allows."""

from __future__ import annotations

from tests.engines import engine
from tests.specification import answers_as_specified

__all__ = ["answers_as_specified", "engine"]
