"""Which visual tokens a training clip keeps.

A model that is to live behind any compressor must not be trained with one: every clip draws one of four neutral
selectors, a third of the time a uniform one, and none of them scores tokens as a published method does. Kept tokens
keep their position ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headrace.train.pool import Take
from headrace.video.world.generator import Draw

SELECTORS = ("uniform",) * 7 + ("difference",) * 5 + ("noisy",) * 4 + ("exact",) * 4  # 35, 25, 20, 20 percent
MIXES = {"mixed": SELECTORS, "uniform": ("uniform",), "none": ()}  # the last two are controls


def keep(
    selector: str, ratio: float, change: Tensor, shown: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Choose the tokens of a clip.

    Args:
        selector: ``uniform`` (any tokens, evenly over frames), ``difference`` (most changed since the frame before),
            ``noisy`` (foreground, a fifth of it mistaken), ``exact`` (foreground); what is left of the budget after
            the foreground is filled at random.
        ratio: Share to keep, 0 < ratio <= 1.
        change: (T, 64) float, change of each token's pixels.
        shown: (T, 64) bool, the foreground.
        generator: Where chance comes from.

    Returns:
        (T, 64) bool.
    """
    chance = torch.rand(change.shape, generator=generator)
    budget = max(1, round(ratio * change.numel()))
    if selector == "uniform":
        each = max(1, round(ratio * change.shape[1]))
        kept = torch.zeros_like(shown)
        return kept.scatter_(1, chance.topk(each, dim=1).indices, True)
    if selector == "difference":
        worth = change + chance
    elif selector in ("noisy", "exact"):
        mistaken = torch.rand(change.shape, generator=generator) < (0.2 if selector == "noisy" else 0.0)
        worth = (shown ^ mistaken).float() + chance
    else:
        raise ValueError(f"unknown selector {selector!r}; known: {', '.join(dict.fromkeys(SELECTORS))}")
    kept = torch.zeros(change.numel(), dtype=torch.bool)
    kept[worth.flatten().topk(budget).indices] = True
    return kept.reshape(change.shape)


def drop(frames: Sequence[tuple[Take, int]], ratio: float, draw: Draw, mix: str = "mixed") -> Tensor:
    """Choose the tokens of a training clip with a drawn selector.

    Args:
        frames: (take, index of the frame in the take).
        ratio: Share to keep, 0 < ratio <= 1; 1 keeps all.
        draw: Where chance comes from.
        mix: Who chooses, one of ``MIXES``; ``none`` keeps all.

    Returns:
        (T, 64) bool.
    """
    change = torch.stack([take.change[index] for take, index in frames])
    shown = torch.stack([take.shown[index] for take, index in frames])
    if ratio == 1 or mix == "none":
        return torch.ones_like(shown)
    change[0] = 255.0
    return keep(draw.pick(MIXES[mix]), ratio, change, shown, torch.Generator().manual_seed(draw.below(1 << 60)))
