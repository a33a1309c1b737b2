"""Random thinning: tokens of every frame drawn without looking.

A baseline for every compressor that looks at content. The draw depends on the seed and the frame's index alone, so it
is the same however the stream is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from headrace.ops.budget import check_keep, num_kept
from headrace.protocols import Card, Method
from headrace.types import Keep, ModelSpec, VisualTokens


@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """Keep randomly drawn tokens of every frame."""

    keep: int | float = 0.5  # tokens per frame (int), or fraction of the frame (float)
    seed: int = 0  # of the drawing, 0 <= seed < 2**31

    card: ClassVar[Card] = Card("random thinning")
    tunable: ClassVar[frozenset[str]] = frozenset({"keep"})
    effort: ClassVar[dict[str, tuple[float, float]]] = {"keep": (0.05, 1.0)}
    shorthand: ClassVar[str] = "keep"

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed: must be from 0 to 2**31 - 1, not {self.seed}")

    def init(self, spec: ModelSpec) -> None:
        """Nothing to remember: a draw depends on the frame's index."""

    def step(self, state: None, tokens: VisualTokens) -> tuple[None, Keep]:
        """Draw from every frame on its own."""
        kept = []
        for frame, index in enumerate(tokens.frames):
            own = torch.nonzero(tokens.frame == frame).squeeze(1)
            generator = torch.Generator().manual_seed(self.seed * 2**32 + index)
            drawn = torch.randperm(len(own), generator=generator)[: num_kept(self.keep, len(own))]
            kept.append(own[drawn.sort().values])
        return None, Keep(torch.cat(kept))
