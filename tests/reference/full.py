"""Naive twin of ``full``: a list that only grows."""

from __future__ import annotations

from typing import Any

from headrace.types import ModelSpec
from reference.naive.rows import Row

VARIANTS: list[dict[str, Any]] = [{}, {"positions": "repack"}, {"positions": "original"}]
IDENTITY: list[dict[str, Any]] = [{}]
REJECTS: dict[str, list[Any]] = {"positions": ["", "gaps", "Repack"]}
TUNED: dict[str, list[Any]] = {}


class Twin:
    """All rows so far."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.policy = spec.positions if method.positions == "auto" else method.positions
        self.axes = spec.position_rows
        self.rows: list[Row] = []

    def places(self, rows: list[Row]) -> list[tuple[int, ...]]:
        """Where the rows stand when they are attended together."""
        if self.policy == "original":
            return [row.ids for row in rows]
        return [(i,) * self.axes for i in range(len(rows))]

    def write(self, new: list[Row]) -> None:
        """Remember."""
        self.rows = [*self.rows, *new]
