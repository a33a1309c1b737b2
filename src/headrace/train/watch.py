"""Phase 4, watch: clips as a stream has them, with cuts, longer and longer, and with tokens dropped.

Tokens are dropped by a mixture of neutral selectors (see ``drop``) and what is kept keeps its position ids, so that
the model is at home behind any compressor.
"""

from __future__ import annotations

from headrace.train.drop import drop
from headrace.train.facts import tell
from headrace.train.notes import take_notes
from headrace.train.pack import Clip
from headrace.train.pool import Pool, Take
from headrace.train.study import WATCH, ask_all
from headrace.train.summary import summarise
from headrace.video.world.generator import Draw

KINDS = {
    "colour": 1, "shape": 1, "where": 2, "motion": 2, "count": 4, "digit": 1, "relation": 2, "still": 3, "latest": 4,
    "first": 4, "before": 5, "changed": 3, "seen": 4, "left": 9, "colour_before": 8, "how_many": 10, "after": 14,
    "first_digit": 14, "digit_ago": 2, "scene_before": 4, WATCH: 24,
}  # fmt: skip
RATIOS = (1.0, 1.0, 0.5, 0.3, 0.3, 0.15)
ROWS = 720  # of a dense clip of 8 frames with its questions
LONG, MOST_DENSE = (24, 32, 48, 64), 32  # frames of long clips; of any clip where nothing is dropped
UNCUT = 20  # percent of clips that fit into a scene and stay in it
QUESTIONS, FRAMES_PER_QUESTION = 24, 3  # questions of a clip, and one more for every so many frames beyond 16


def clips(pool: Pool, draw: Draw, share: float, num: int, mix: str) -> list[Clip]:
    """Draw the clips of one step, all of four to 64 frames; ``share`` of the phase is over.

    The step keeps one share of its tokens, and takes as many clips as fill the rows of ``num`` dense clips of 8. Clips
    of more than 16 frames come one in six times, in the second half of the phase, and mostly thinned; in its last fifth
    short ones are rare.
    """
    longest = 8 if share < 0.2 else 16
    few = (4, 6, 8) if share < 0.8 else (8, 16)
    frames = draw.pick((*few, (8 + longest) // 2, longest, longest, draw.between(4, longest)))
    ratio = draw.pick(RATIOS)
    if share > 0.5 and draw.chance(16):
        frames, ratio = draw.pick(LONG), draw.pick((0.5, 0.3, 0.3, 0.15))
    if mix == "none":
        frames, ratio = min(frames, MOST_DENSE), 1.0
    rows = frames * (64 * ratio + 1) + 200
    return [_clip(pool, draw, frames, ratio, mix) for _ in range(max(1, int(num * ROWS / rows)))]


def _clip(pool: Pool, draw: Draw, num: int, ratio: float, mix: str) -> Clip:
    """Draw ``num`` frames, often with cuts among them, and their questions."""
    frames = _stretch(pool, draw, num)
    questions = QUESTIONS + max(0, num - 16) // FRAMES_PER_QUESTION
    asks = ask_all(frames, draw, KINDS, questions)
    return Clip(frames, asks, drop(frames, ratio, draw, mix), take_notes(frames), summarise(frames), tell(frames))


def _stretch(pool: Pool, draw: Draw, num: int) -> list[tuple[Take, int]]:
    """Draw frames as a viewer sees them: the end of a scene, whole scenes, the start of one; short ones may skip."""
    take = max((draw.pick(pool.takes) for _ in range(3)), key=lambda t: len(t.ticks))
    if num <= len(take.ticks) and draw.chance(UNCUT):
        gap = 2 if draw.chance(20) and 2 * num <= len(take.ticks) else 1
        first = draw.below(len(take.ticks) - gap * (num - 1)) if draw.chance(70) else 0
        return [(take, first + gap * i) for i in range(num)]
    take = draw.pick(pool.takes)
    current = min(num, len(take.ticks), draw.between(1, num))
    frames = [(take, i) for i in range(current)]
    while len(frames) < num:
        before = draw.pick(pool.takes)
        if before is not frames[0][0]:
            length = min(num - len(frames), len(before.ticks))
            frames = [(before, i) for i in range(len(before.ticks) - length, len(before.ticks))] + frames
    return frames
