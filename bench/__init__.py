"""Benchmarks: comity beside Synapse, on one machine, in one run (README.md)."""

from __future__ import annotations
