"""STC-Pruner: keep the visual tokens that differ from their surroundings in space and time.

Paper: Streaming Token Compression (arXiv 2512.00891, CVPR 2026). Original: lern-to-write/STC (no licence).

A token is dull when it looks like the mean of its own frame and like the mean of everything seen so far. Both
likenesses are measured on the quiet half of the channels, where noise is small, and the dullest tokens go.

Ours differs: the history is a running sum in fp64 with a count, so it is exact and does not grow, and it belongs to the
stream. ``channels="fixed"`` keeps the subset of the first step; as released, every step chooses its own, ranked by
variance, and the history adds up ranks. ``score="dual_anchor"`` is the form of the paper's text, ``gaussian`` the
released one.

Shapes: P tokens of a frame, C channels chosen (half of D).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from headrace.ops.budget import check_keep, num_kept
from headrace.protocols import Card, Method
from headrace.types import Keep, ModelSpec, VisualTokens

SCORES = ("gaussian", "dual_anchor")
CHANNELS = ("per_chunk", "fixed")
WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)


@dataclass(slots=True)
class PrunerState:
    """Sum of the steps' mean tokens ((C,) float64, None before the first), their number, and the fixed channels."""

    total: Tensor | None
    count: int
    channels: Tensor | None


def quiet_channels(x: Tensor) -> Tensor:
    """Choose the half of the channels with least variance over all tokens: (N, D) to (D // 2,), quietest first."""
    variance = x.var(dim=0, correction=0)
    return variance.sort(stable=True).indices[: x.shape[1] // 2]


def gaussian(f: Tensor, anchor: Tensor) -> Tensor:
    """Likeness to an anchor under kernels of five widths: (P, C) and (C,) to (P,)."""
    distance = (f - anchor).square().sum(-1)
    return torch.stack([torch.exp(-distance / (2 * width)) for width in WIDTHS]).sum(0)


def dullness(f: Tensor, history: Tensor, score: str) -> Tensor:
    """Score the tokens of a frame; the lowest are kept.

    Args:
        f: (P, C) tokens of unit length.
        history: (C,) mean of everything seen, this step included.
        score: One of ``SCORES``.
    """
    here, before = f.mean(0), torch.nn.functional.normalize(history, dim=0)
    if score == "gaussian":
        return gaussian(f, here) + gaussian(f, before)
    return 0.5 * (f @ torch.nn.functional.normalize(here, dim=0)) + 0.5 * (f @ before)


@dataclass(frozen=True, kw_only=True)
class StcPruner(Method):
    """Drop tokens that look like their frame and like the past."""

    keep: int | float = 0.3  # tokens per frame (int), or fraction of the frame (float)
    score: str = "gaussian"  # gaussian: as released; dual_anchor: as in the paper's text
    channels: str = "per_chunk"  # per_chunk: chosen anew at every step, as released; fixed: those of the first step

    card: ClassVar[Card] = Card(
        "STC-Pruner",
        paper="https://arxiv.org/abs/2512.00891",
        licence="none",
        differs="the history is a running mean of the stream; the released list grows and is never cleared",
    )
    tunable: ClassVar[frozenset[str]] = frozenset({"keep", "score"})
    effort: ClassVar[dict[str, tuple[float, float]]] = {"keep": (0.05, 1.0)}
    presets: ClassVar[dict[str, str]] = {"stc": "stc_cacher+stc_pruner"}
    shorthand: ClassVar[str] = "keep"

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if self.score not in SCORES:
            raise ValueError(f"score: {self.score!r} is unknown; known: {', '.join(SCORES)}")
        if self.channels not in CHANNELS:
            raise ValueError(f"channels: {self.channels!r} is unknown; known: {', '.join(CHANNELS)}")

    def init(self, spec: ModelSpec) -> PrunerState:
        """No history."""
        return PrunerState(None, 0, None)

    def step(self, state: PrunerState, tokens: VisualTokens) -> tuple[PrunerState, Keep]:
        """Add the step to the history, then keep the least dull tokens of every frame."""
        if not len(tokens):
            return state, Keep(torch.arange(0))
        x = tokens.features.float()
        chosen = state.channels if state.channels is not None else quiet_channels(x)
        x = x[:, chosen]
        mean = x.mean(0).double()
        total = mean if state.total is None else state.total + mean
        history = (total / (state.count + 1)).float()
        f, kept = torch.nn.functional.normalize(x, dim=-1), []
        for frame in range(len(tokens.frames)):
            own = torch.nonzero(tokens.frame == frame).squeeze(1)
            if not len(own):
                continue
            dull = dullness(f[own], history, self.score)
            kept.append(own[dull.cpu().sort(stable=True).indices[: num_kept(self.keep, len(own))].sort().values])
        fixed = chosen if self.channels == "fixed" else None
        return PrunerState(total, state.count + 1, fixed), Keep(torch.cat(kept))
