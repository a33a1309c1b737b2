"""Naive twin of ``streamingllm``: the first rows and the last rows, numbered anew at every step as in the paper."""

from __future__ import annotations

from typing import Any

from headrace.types import Kind, ModelSpec
from reference.naive.rows import Row

VARIANTS: list[dict[str, Any]] = [
    {"window": 9},
    {"window": 1, "sinks": 0},
    {"window": 6, "sinks": 4, "positions": "repack"},
    {"window": 13, "sinks": 2, "positions": "original"},
    {"window": 25, "sinks": 8},
    {"window": 5, "sinks": 8, "evict": "before", "positions": "original"},
]
IDENTITY: list[dict[str, Any]] = [{"window": 100_000}, {"window": 100_000, "sinks": 0, "evict": "before"}]
REJECTS: dict[str, list[Any]] = {
    "window": [0, -1],
    "sinks": [-1],
    "evict": ["", "never"],
    "positions": ["", "gaps", "Repack"],
}
TUNED: dict[str, list[Any]] = {"window": [1, 5, 40, 100_000]}


class Twin:
    """Sinks and window in one list."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.method = method
        self.policy = spec.positions if method.positions == "auto" else method.positions
        self.axes = spec.position_rows
        self.sinks: int | None = method.sinks
        self.rows: list[Row] = []

    def places(self, rows: list[Row]) -> list[tuple[int, ...]]:
        """Index in what is left; or ids with gaps, and the sinks moved up to the oldest row behind them."""
        if self.policy == "repack":
            return [(i,) * self.axes for i in range(len(rows))]
        first = [row for row in rows if row.arrival < (self.sinks or 0)]
        rest = rows[len(first) :]
        if not rest or not first or rest[0].arrival == first[-1].arrival + 1:
            return [row.ids for row in rows]
        moved = [tuple(x - len(first) + i for x in rest[0].ids) for i in range(len(first))]
        return moved + [row.ids for row in rest]

    def left_for(self, num: int) -> list[Row]:
        """What is there for ``num`` new rows; where room is made first, the oldest make it."""
        if self.method.evict == "after" or not self.rows:
            return self.rows
        first = [row for row in self.rows if row.arrival < (self.sinks or 0)]
        rest = self.rows[len(first) :]
        return first + rest[max(0, len(rest) - max(0, self.method.window - num)) :]

    def write(self, new: list[Row]) -> None:
        """Remember, then keep the sinks and the newest rows."""
        if self.sinks is None:
            self.sinks = sum(row.kind == Kind.PREFIX for row in new)
        rows = [*self.rows, *new]
        first = [row for row in rows if row.arrival < self.sinks]
        rest = [row for row in rows if row.arrival >= self.sinks]
        self.rows = first + rest[-self.method.window :]
