"""Phase 4, watch: clips as a stream has them, with cuts, longer and longer, and with tokens dropped.

Tokens are dropped by a mixture of neutral selectors (see ``drop``) and what is kept keeps its position ids, so that
the model is at home behind any compressor.
"""

from __future__ import annotations

from headrace.train.drop import drop
from headrace.train.notes import take_notes
from headrace.train.pack import Ask, Clip
from headrace.train.pool import Pool, Take
from headrace.train.study import ask
from headrace.video.world import View
from headrace.video.world.generator import Draw

KINDS = {
    "colour": 2, "shape": 2, "where": 3, "motion": 4, "count": 2, "latest": 3,
    "first": 3, "before": 3, "digit": 1, "changed": 3, "seen": 2,
}  # fmt: skip
RATIOS = (1.0, 0.5, 0.3, 0.3, 0.15)
QUESTIONS = 12


def clips(pool: Pool, draw: Draw, share: float, num: int) -> list[Clip]:
    """Draw the clips of one step, all of four to sixteen frames; ``share`` of the phase is over.

    The step keeps one share of its tokens, and takes as many clips as fill the rows of ``num`` dense clips of 8.
    """
    longest = 8 if share < 0.5 else 16
    frames = draw.pick((4, 5, 6, 7, 8, 8, 8, longest, longest, draw.between(4, longest)))
    ratio = draw.pick(RATIOS)
    rows = frames * (64 * ratio + 1) + 150
    return [_clip(pool, draw, frames, ratio) for _ in range(max(1, int(num * 670 / rows)))]


def _clip(pool: Pool, draw: Draw, num: int, ratio: float) -> Clip:
    """Draw ``num`` frames, in four of ten cases with a cut among them, and their questions."""
    take = draw.pick(pool.takes)
    gap = 2 if draw.chance(20) and num <= 6 else 1
    earlier: list[tuple[Take, int]] = []
    if draw.chance(40):
        before = draw.pick(pool.takes)
        length = min(draw.between(1, max(1, num - 3)), len(before.ticks))
        earlier = [(before, i) for i in range(len(before.ticks) - length, len(before.ticks))]
        first = 0
    rest = min(num - len(earlier), (len(take.ticks) - 1) // gap + 1)
    if not earlier:
        first = draw.below(len(take.ticks) - gap * (rest - 1)) if draw.chance(60) else 0
    indices = [first + gap * i for i in range(rest)]
    asks: list[Ask] = []
    for _ in range(QUESTIONS):
        seen = rest if draw.chance(60) else draw.between(1, rest)
        found = ask(View(take.scene, tuple(take.ticks[i] for i in indices[:seen]), take.size), draw, KINDS)
        if found:
            asks.append(Ask(found.after + len(earlier), found.kind, found.text, found.answer))
    frames = earlier + [(take, i) for i in indices]
    return Clip(frames, list(dict.fromkeys(asks)), drop(frames, ratio, draw), take_notes(frames))
