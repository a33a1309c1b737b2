"""Standing instructions ("say when the star appears") and the exact moments at which they come true."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.video.world.script import SHAPES, TICKS_PER_SECOND, World


@dataclass(frozen=True, slots=True)
class Watch:
    """One standing instruction.

    Attributes:
        text: The instruction, lower case.
        since_s: It is given right before the frame of this time, in seconds.
        events_s: Times of the frames at which the model should speak, ascending.
    """

    text: str
    since_s: float
    events_s: tuple[float, ...]


def watches(world: World, start: int, stop: int) -> list[Watch]:
    """Return every instruction of the world with its events in ticks ``start`` <= t < ``stop``.

    A thing appears when it is on a picture and was not on the one before of the same scene; the frame at ``start``
    counts as the first of its scene.

    Args:
        world: The world.
        start: Tick of the first frame the watcher sees.
        stop: Tick after the last.
    """
    events: dict[str, list[int]] = {f"say when the {shape} appears": [] for shape in SHAPES}
    events |= {"say when the digit changes": [], "say when something changes colour": []}
    for tick in range(start, stop):
        scene = world.scene(tick)
        fresh = tick in (start, scene.start)
        for sprite in scene.visible(tick):
            if fresh or sprite.appears == tick:
                events[f"say when the {sprite.shape} appears"].append(tick)
            if not fresh and sprite.changes == tick and tick not in events["say when something changes colour"]:
                events["say when something changes colour"].append(tick)
        if not fresh and scene.digit(tick) != scene.digit(tick - 1):
            events["say when the digit changes"].append(tick)
    return [
        Watch(text, start / TICKS_PER_SECOND, tuple(tick / TICKS_PER_SECOND for tick in ticks))
        for text, ticks in events.items()
    ]
