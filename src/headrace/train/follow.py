"""Phase 3, follow: a few frames, often some ticks apart; what moved, came, changed.

Frames lie two to four ticks apart at first, where movement is easy to see, and come closer as the phase goes on. What
the phase before taught is asked all along: a phase on one kind alone would unlearn the others.
"""

from __future__ import annotations

import torch

from headrace.train.pack import Clip
from headrace.train.pool import Pool
from headrace.train.study import ask
from headrace.video.world import View
from headrace.video.world.generator import Draw

KINDS = {"motion": 5, "before": 4, "changed": 3, "latest": 3, "first": 2, "seen": 2}
REPLAY = {"colour": 2, "shape": 1, "where": 3, "count": 1, "digit": 1}
QUESTIONS = 10


def clips(pool: Pool, draw: Draw, share: float, num: int) -> list[Clip]:
    """Draw the clips of one step, all of two to five frames; ``share`` of the phase is over."""
    frames = draw.pick((2, 3, 3, 4, 4, 5))
    return [_clip(pool, draw, share, frames) for _ in range(max(1, 3 * num // frames))]


def _clip(pool: Pool, draw: Draw, share: float, num: int) -> Clip:
    """Draw ``num`` frames of a scene with their questions."""
    take = draw.pick(pool.takes)
    near = draw.below(100) < 100 * share
    gap = min(draw.pick((1, 1, 1, 2)) if near else draw.pick((2, 3, 3, 4)), (len(take.ticks) - 1) // (num - 1))
    start = draw.below(len(take.ticks) - gap * (num - 1))
    indices = [start + gap * i for i in range(num)]
    asks = []
    for _ in range(QUESTIONS):
        seen = num if draw.chance(70) else draw.between(1, num)
        view = View(take.scene, tuple(take.ticks[i] for i in indices[:seen]), take.size)
        asks.append(ask(view, draw, KINDS | REPLAY))
    kept = torch.ones(num, take.shown.shape[1], dtype=torch.bool)
    found = list(dict.fromkeys(question for question in asks if question))
    return Clip([(take, i) for i in indices], found, kept)
