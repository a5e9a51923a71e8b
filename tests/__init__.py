"""The tests, by layer: rules, api, simulation, interop, house (docs/map.md)."""

from __future__ import annotations
