"""Phase 2, bind: one frame with several things; which colour belongs to which shape, and where it is."""

from __future__ import annotations

import torch

from headrace.train.pack import Clip
from headrace.train.pool import Pool
from headrace.train.study import ask_all
from headrace.video.world.generator import Draw

KINDS = {"colour": 4, "shape": 3, "where": 4, "count": 2, "digit": 1, "seen": 1, "relation": 3}
QUESTIONS = 8


def clips(pool: Pool, draw: Draw, share: float, num: int, mix: str) -> list[Clip]:
    """Draw the clips of one step; nothing is dropped here."""
    return [_clip(pool, draw) for _ in range(num)]


def _clip(pool: Pool, draw: Draw) -> Clip:
    """Draw one frame of the pool with its questions; of two frames the one with more sprites."""
    take = draw.pick(pool.takes)
    at = [draw.below(len(take.ticks)) for _ in range(2)]
    index = max(at, key=lambda i: len(take.scene.visible(take.ticks[i])))
    frames = [(take, index)]
    return Clip(frames, ask_all(frames, draw, KINDS, QUESTIONS), torch.ones(1, take.shown.shape[1], dtype=torch.bool))
