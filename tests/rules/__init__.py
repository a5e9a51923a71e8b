"""The rules of the protocol: vectors of the specification, tables per room version, properties."""

from __future__ import annotations
