"""Naive twin of ``rekv_internal``: key heads repeated for their query heads, plain dot products, runs of neighbours."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from headrace.types import ModelSpec

VARIANTS: list[dict[str, Any]] = [{}, {"chunk": 2}, {"chunk": 3}, {"chunk": 100}]
REJECTS: dict[str, list[Any]] = {"chunk": [0, -1]}
TUNED: dict[str, list[Any]] = {}


class Twin:
    """The keys of every block as they came."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.method, self.spec = method, spec
        self.blocks: dict[int, list[Tensor]] = {}

    def add(self, number: int, block: Any, embeds: Tensor) -> None:
        """Keep a block's keys per layer."""
        self.blocks[number] = [block.layer(layer)[0].double() for layer in range(self.spec.layers)]

    def drop(self, ids: list[int]) -> None:
        """Forget blocks."""
        self.blocks = {number: keys for number, keys in self.blocks.items() if number not in ids}

    def scores(self, layer: int | None, q: Tensor) -> dict[int, float]:
        """What every block is worth."""
        heads, repeat = q.shape[0], q.shape[0] // self.spec.kv_heads
        out = {}
        for number, keys in self.blocks.items():
            held = keys[layer]
            out[number] = sum(
                float(q[head].double().mean(0) @ held[head // repeat].mean(0)) if held.shape[1] else 0.0
                for head in range(heads)
            )
        return out

    def select(self, layer: int | None, q: Tensor, budget: int) -> list[int]:
        """The best runs of neighbours, none longer than the budget; a short last run counts as one."""
        scores = self.scores(layer, q)
        return best_runs(scores, budget, self.method.chunk)


def best_runs(scores: dict[int, float], budget: int, chunk: int) -> list[int]:
    """Names of the best runs, ascending; all where they fit."""
    names = sorted(scores)
    if len(names) <= budget:
        return names
    if budget == 0:
        return []
    chunk = min(chunk, budget)
    runs = [names[i : i + chunk] for i in range(0, len(names), chunk)]
    best = sorted(runs, key=lambda run: -sum(scores[name] for name in run) / len(run))[: budget // chunk]
    return sorted(name for run in best for name in run)
