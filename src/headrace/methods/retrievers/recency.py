"""Recency: a question sees the newest blocks. The yardstick of every retriever.

What any other retriever gains over it is what looking things up is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from headrace.cache import Found, Sealed, VectorIndex
from headrace.protocols import Card, Method
from headrace.types import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Recency(Method):
    """Choose the newest blocks."""

    card: ClassVar[Card] = Card("recency")
    per_layer: ClassVar[bool] = False

    def init(self, spec: ModelSpec) -> VectorIndex:
        """Names alone, vectors of no width."""
        return VectorIndex.empty(1, 0, spec.device)

    def add(self, state: VectorIndex, number: int, block: Sealed, embeds: Tensor) -> VectorIndex:
        """Note the block's name."""
        return state.add(number, torch.empty(1, 0, dtype=torch.float32, device=state.device))

    def select(self, state: VectorIndex, layer: int | None, q: Tensor, budget: int) -> Found:
        """Choose the newest; each is worth its age rank among all."""
        num = len(state)
        first = max(num - budget, 0)
        return Found(state.ids[first:], torch.arange(first, num) / max(num - 1, 1))

    def drop(self, state: VectorIndex, ids: Tensor) -> VectorIndex:
        """Forget names."""
        return state.drop(ids)
