"""Fair draws: how often each answer is kept so that none is worth guessing."""

from __future__ import annotations

from collections import Counter
from functools import cache

from headrace.video.world.generator import Draw
from headrace.video.world.kind import Kind
from headrace.video.world.levels import Level
from headrace.video.world.script import World
from headrace.video.world.view import look

SAMPLE = 1 << 50  # seeds from here up are looked at to see which answers are common
WORLDS, MOMENTS = 160, 8
RARE = 28  # an answer less frequent than one in so many is not worth waiting for


@cache
def odds(level: Level, kinds: tuple[Kind, ...]) -> dict[tuple[str, str], int]:
    """Return how many of 1000 questions are kept: fewer the more common the answer, all where it is rare.

    The answers' natural shares are counted on a sample of worlds of the level; integers throughout, so the same
    everywhere.

    Args:
        level: Level of the world.
        kinds: Kinds of question; those that are not skewed keep all.

    Returns:
        The number by (name of the kind, answer).
    """
    skewed = [kind for kind in kinds if kind.skewed]
    tally: dict[str, Counter[str]] = {kind.name: Counter() for kind in skewed}
    back = max((kind.scenes_back for kind in skewed), default=0)
    for number in range(WORLDS):
        world = World(SAMPLE + number, level)
        for moment in range(MOMENTS):
            draw = Draw(world.seed, moment)
            view = look(world, draw.below(40) + 40 * moment, scenes_back=back)
            for kind in skewed:
                if found := kind.ask(view, draw):
                    tally[kind.name][found[1]] += 1
    kept: dict[tuple[str, str], int] = {}
    for name, times in tally.items():
        common = min((num for num in times.values() if num * RARE >= times.total()), default=0)
        kept |= {(name, answer): min(1000, 1000 * common // num) for answer, num in times.items()}
    return kept
