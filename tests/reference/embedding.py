"""Naive twin of ``embedding``: lists of unit vectors, one dot product after the other."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from headrace.types import Kind, ModelSpec
from reference.rekv_internal import best_runs
from reference.stc_pruner import mean, unit

VARIANTS: list[dict[str, Any]] = [{}, {"centre": False}]
REJECTS: dict[str, list[Any]] = {}
TUNED: dict[str, list[Any]] = {}


class Twin:
    """The mean direction of every block."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.method = method
        self.blocks: dict[int, list[float]] = {}

    def add(self, number: int, block: Any, embeds: Tensor) -> None:
        """Average the unit vectors of the visual rows, or of all rows where there are none."""
        kinds = block.notes.kind.tolist()
        rows = [row for row, kind in zip(embeds.double().tolist(), kinds, strict=True) if kind == Kind.VISUAL]
        self.blocks[number] = mean([unit(row) for row in rows or embeds.double().tolist()])

    def drop(self, ids: list[int]) -> None:
        """Forget blocks."""
        self.blocks = {number: row for number, row in self.blocks.items() if number not in ids}

    def scores(self, layer: int | None, q: Tensor) -> dict[int, float]:
        """Cosine with the mean direction of the question's rows."""
        if not self.blocks:
            return {}
        asked = unit(mean([unit(row) for row in q.double().tolist()]))
        middle = mean(list(self.blocks.values())) if self.method.centre else [0.0] * len(asked)
        out = {}
        for number, row in self.blocks.items():
            apart = unit([x - y for x, y in zip(row, middle, strict=True)])
            out[number] = sum(x * y for x, y in zip(apart, asked, strict=True))
        return out

    def select(self, layer: int | None, q: Tensor, budget: int) -> list[int]:
        """The best ones."""
        return best_runs(self.scores(layer, q), budget, 1)
