"""Naive twin of ``recency``: a list of names."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from headrace.types import ModelSpec

VARIANTS: list[dict[str, Any]] = [{}]
REJECTS: dict[str, list[Any]] = {}
TUNED: dict[str, list[Any]] = {}


class Twin:
    """Names, oldest first."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.names: list[int] = []

    def add(self, number: int, block: Any, embeds: Tensor) -> None:
        """Note a name."""
        self.names.append(number)

    def drop(self, ids: list[int]) -> None:
        """Forget names."""
        self.names = [name for name in self.names if name not in ids]

    def scores(self, layer: int | None, q: Tensor) -> dict[int, float]:
        """The later, the better."""
        return {name: float(rank) for rank, name in enumerate(self.names)}

    def select(self, layer: int | None, q: Tensor, budget: int) -> list[int]:
        """The last ones."""
        return [name for rank, name in enumerate(self.names) if rank >= len(self.names) - budget]
