"""Phase 2, bind: one frame with several things; which colour belongs to which shape, and where it is."""

from __future__ import annotations

import torch

from headrace.train.pack import Clip
from headrace.train.pool import Pool
from headrace.train.study import ask
from headrace.video.world import View
from headrace.video.world.generator import Draw

KINDS = {"colour": 4, "shape": 3, "where": 4, "count": 2, "digit": 1, "seen": 1}
QUESTIONS = 8


def clips(pool: Pool, draw: Draw, share: float, num: int) -> list[Clip]:
    """Draw the clips of one step; ``share`` of the phase is over."""
    return [_clip(pool, draw) for _ in range(num)]


def _clip(pool: Pool, draw: Draw) -> Clip:
    """Draw one frame of the pool with its questions; of two frames the one with more sprites."""
    take = draw.pick(pool.takes)
    at = [draw.below(len(take.ticks)) for _ in range(2)]
    index = max(at, key=lambda i: len(take.scene.visible(take.ticks[i])))
    view = View(take.scene, (take.ticks[index],), take.size)
    found = [ask(view, draw, KINDS) for _ in range(QUESTIONS)]
    asks = list(dict.fromkeys(question for question in found if question))
    return Clip([(take, index)], asks, torch.ones(1, take.shown.shape[1], dtype=torch.bool))
