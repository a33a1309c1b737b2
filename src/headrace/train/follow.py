"""Phase 3, follow: a few frames, often some ticks apart; what moved, came, changed.

Frames lie two to four ticks apart at first, where movement is easy to see, and come closer as the phase goes on. What
the phase before taught is asked all along: a phase on one kind alone would unlearn the others.
"""

from __future__ import annotations

from headrace.train.drop import drop
from headrace.train.facts import tell
from headrace.train.notes import take_notes
from headrace.train.pack import Clip
from headrace.train.pool import Pool
from headrace.train.study import WATCH, ask_all
from headrace.train.summary import summarise
from headrace.video.world.generator import Draw

KINDS = {
    "motion": 6, "still": 2, "before": 3, "changed": 4, "colour_before": 3, "latest": 4, "first": 4, "seen": 2,
    "left": 2, "how_many": 2, "after": 3, "first_digit": 1, "digit_ago": 2, WATCH: 5,
}  # fmt: skip
REPLAY = {"colour": 1, "shape": 1, "where": 3, "count": 2, "digit": 1, "relation": 3}
RATIOS = (1.0, 0.5, 0.3, 0.3)  # shares of the visual tokens that are kept
QUESTIONS = 10


def clips(pool: Pool, draw: Draw, share: float, num: int, mix: str) -> list[Clip]:
    """Draw the clips of one step, all of two to five frames; ``share`` of the phase is over.

    The step keeps one share of its tokens, and takes as many clips as fill the rows of ``num`` dense clips of 3.
    """
    frames, ratio = draw.pick((2, 3, 3, 4, 4, 5)), draw.pick(RATIOS) if mix != "none" else 1.0
    rows = frames * (64 * ratio + 1) + 110
    return [_clip(pool, draw, share, frames, ratio, mix) for _ in range(max(1, int(num * 305 / rows)))]


def _clip(pool: Pool, draw: Draw, share: float, num: int, ratio: float, mix: str) -> Clip:
    """Draw ``num`` frames of a scene with their questions."""
    take = draw.pick(pool.takes)
    near = draw.below(100) < 100 * share
    gap = min(draw.pick((1, 1, 1, 2)) if near else draw.pick((2, 3, 3, 4)), (len(take.ticks) - 1) // (num - 1))
    start = draw.below(len(take.ticks) - gap * (num - 1))
    frames = [(take, start + gap * i) for i in range(num)]
    asks = ask_all(frames, draw, KINDS | REPLAY, QUESTIONS)
    return Clip(frames, asks, drop(frames, ratio, draw, mix), take_notes(frames), summarise(frames), tell(frames))
