"""Naive twin of ``videoscan``: a list of rows, of which each frame's last stays.

There is no size at which it forgets nothing; what it equals is one forward with its mask: tests/unit/test_videoscan.py.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from headrace.types import Kind, ModelSpec
from reference.naive.rows import Row

VARIANTS: list[dict[str, Any]] = [
    {"capacity": 4},
    {"capacity": 2, "carrier": "last", "counting": "released", "turn_rows": 6},
    {"capacity": 5, "counting": "released", "positions": "original", "turn_rows": 0},
    {"capacity": 9, "counting": "stream", "positions": "original"},
    {"capacity": 3, "counting": "kept", "positions": "original"},
    {"capacity": 6, "counting": "stream"},
]
IDENTITY: list[dict[str, Any]] = []
REJECTS: dict[str, list[Any]] = {
    "capacity": [1, 0, -1],
    "carrier": ["", "first"],
    "counting": ["", "trained"],
    "turn_rows": [-1],
    "positions": ["", "gaps", "Repack"],
}
TUNED: dict[str, list[Any]] = {"capacity": [2, 9, 3, 100]}


class Twin:
    """Rows that stay, and where each stood among those that stayed then."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.method = method
        self.policy = spec.positions if method.positions == "auto" else method.positions
        self.axes = spec.position_rows
        self.rows: list[Row] = []
        self.spots: dict[int, tuple[int, ...]] = {}
        self.behind = (0,) * self.axes

    def own(self, row: Row) -> tuple[int, ...]:
        """Where a row stands in the stream."""
        return row.ids if self.policy == "original" else (row.arrival,) * self.axes

    def places(self, rows: list[Row]) -> list[tuple[int, ...]]:
        """New rows stand where they come in the stream; the kept ones as the method counts."""
        kept, num = {row.arrival: i for i, row in enumerate(self.rows)}, len(self.rows)
        out = []
        for row in rows:
            if row.arrival not in kept or self.method.counting == "stream":
                out.append(self.own(row))
                continue
            spot = self.spots[row.arrival] if self.method.counting == "released" else (kept[row.arrival],) * self.axes
            out.append(tuple(end - num + x for end, x in zip(self.behind, spot, strict=True)))
        return out

    def write(self, new: list[Row]) -> None:
        """Keep prefix, words, and the last row of each frame; then delete what looks like the next."""
        for row in new:
            moved = zip(self.own(row), self.behind, strict=True)
            self.spots[row.arrival] = tuple(len(self.rows) + x - end for x, end in moved)
        last = {row.frame: row for row in new if row.frame >= 0}
        kept = list(last.values()) if last else new
        before = list(self.rows)
        for row in kept:
            before.append(row)
            shown = [x for x in before if x.frame >= 0]
            if row.frame >= 0 and len(shown) >= self.method.capacity:
                alike = [
                    float(torch.nn.functional.cosine_similarity(a.embed.double(), b.embed.double(), dim=0))
                    for a, b in pairwise(shown)
                ]
                gone = shown[alike.index(max(alike))]
                before = [x for x in before if x is not gone]
        words = [row for row in before if row.frame < 0 and row.kind != Kind.PREFIX]
        gone_words = {row.arrival for row in words[: max(0, len(words) - self.method.turn_rows)]}
        self.rows = [row for row in before if row.arrival not in gone_words]
        if not new:
            return
        if self.policy == "original":
            self.behind = tuple(max(row.ids[axis] for row in new) + 1 for axis in range(self.axes))
        else:
            self.behind = (new[-1].arrival + 1,) * self.axes
