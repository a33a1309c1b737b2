"""Naive twin of ``recent``: a list of frames and turns, cut from the front."""

from __future__ import annotations

from typing import Any

from headrace.types import ModelSpec

VARIANTS: list[dict[str, Any]] = [
    {"frames": 1},
    {"frames": 3},
    {"frames": 4, "turn_rows": 0},
    {"frames": 5, "turn_rows": 9, "positions": "original"},
]
IDENTITY: list[dict[str, Any]] = [{"frames": 100_000, "turn_rows": 100_000}]
REJECTS: dict[str, list[Any]] = {
    "frames": [0, -1],
    "turn_rows": [-1],
    "positions": ["", "gaps", "Repack"],
}
TUNED: dict[str, list[Any]] = {"frames": [1, 2, 7, 1000]}


class Twin:
    """Items: ("frame", stream index) and ("turn", number of rows, turn number), oldest first."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.method = method
        self.items: list[tuple[Any, ...]] = []

    def write(self, new: list[tuple[Any, ...]]) -> None:
        """Remember, then forget from the front."""
        self.items = [*self.items, *new]
        while sum(item[0] == "frame" for item in self.items) > self.method.frames:
            del self.items[0]
            while self.items[0][0] == "turn":
                del self.items[0]
        while sum(item[1] for item in self.items if item[0] == "turn") > self.method.turn_rows:
            oldest = next(i for i, item in enumerate(self.items) if item[0] == "turn")
            while oldest < len(self.items) and self.items[oldest][0] == "turn":
                del self.items[oldest]
