"""Which standing instructions a benchmark watches."""

from __future__ import annotations

import random

from headrace.video.world import ALL_INSTRUCTIONS, Watch, World, watches

LEAST_EVENTS = 2  # an instruction that comes true less often in a stream is not worth watching


def choose(world: World, num_ticks: int, num: int) -> list[Watch]:
    """Choose standing instructions that come true at least twice in a stream; the same every time.

    Args:
        world: The stream.
        num_ticks: Its length in frames.
        num: How many, at most.
    """
    found = watches(world, 0, num_ticks, instructions=ALL_INSTRUCTIONS)
    worthy = [watch for watch in found if len(watch.events_s) >= LEAST_EVENTS]
    return random.Random(world.seed).sample(worthy, min(num, len(worthy)))
