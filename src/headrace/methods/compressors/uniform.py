"""Uniform thinning: evenly spaced tokens of every frame, whatever they show.

A baseline for every compressor that looks at content. Tokens are taken in raster order, so the kept ones form a fixed
pattern on the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from headrace.ops.budget import check_keep, num_kept
from headrace.protocols import Card, Method
from headrace.types import Keep, ModelSpec, VisualTokens


def evenly_spaced(num: int, keep: int) -> Tensor:
    """Choose ``keep`` of ``num`` indices, the middle of each of ``keep`` equal stretches: (keep,) int64."""
    return (2 * torch.arange(keep) + 1) * num // (2 * keep)


@dataclass(frozen=True, kw_only=True)
class Uniform(Method):
    """Keep evenly spaced tokens of every frame."""

    keep: int | float = 0.5  # tokens per frame (int), or fraction of the frame (float)

    card: ClassVar[Card] = Card("uniform thinning")
    tunable: ClassVar[frozenset[str]] = frozenset({"keep"})
    effort: ClassVar[dict[str, tuple[float, float]]] = {"keep": (0.05, 1.0)}
    shorthand: ClassVar[str] = "keep"

    def __post_init__(self) -> None:
        check_keep(self.keep)

    def init(self, spec: ModelSpec) -> None:
        """Nothing to remember."""

    def step(self, state: None, tokens: VisualTokens) -> tuple[None, Keep]:
        """Choose the same places in every frame."""
        kept = []
        for frame in range(len(tokens.frames)):
            own = torch.nonzero(tokens.frame == frame).squeeze(1)
            kept.append(own[evenly_spaced(len(own), num_kept(self.keep, len(own)))])
        return None, Keep(torch.cat(kept))
