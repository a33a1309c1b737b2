"""Forward active responding: standing instructions ("say when the star appears") and when they come true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.video.world.scene import Scene
from headrace.video.world.script import TICKS_PER_SECOND, World
from headrace.video.world.sprite import SHAPES, Sprite
from headrace.video.world.view import View

# Those that the first nano was trained on, and those that came later.
INSTRUCTIONS = (
    "say when the {shape} appears",
    "say when the digit changes",
    "say when something changes colour",
)
NEW_INSTRUCTIONS = ("say when something leaves", "say when there is a cut")
ALL_INSTRUCTIONS = INSTRUCTIONS + NEW_INSTRUCTIONS
APPEARS, DIGIT, COLOUR, LEAVES, CUT = ALL_INSTRUCTIONS


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


def watches(world: World, start: int, stop: int, *, instructions: Sequence[str] = INSTRUCTIONS) -> list[Watch]:
    """Return every instruction of the world with its events in ticks ``start`` <= t < ``stop``.

    A thing appears on the first picture of a scene on which it is clear; the frame at ``start`` counts as the first
    of its scene. It leaves on the first picture of the same scene on which it is no longer there; behind the bar it
    is still there. A cut is the first picture of every scene but that of ``start``.

    Args:
        world: The world.
        start: Tick of the first frame the watcher sees.
        stop: Tick after the last.
        instructions: Which instructions, with placeholders.

    Raises:
        ValueError: An instruction is unknown.
    """
    if unknown := [text for text in instructions if text not in ALL_INSTRUCTIONS]:
        raise ValueError(f"unknown instruction {unknown[0]!r}; known: {', '.join(ALL_INSTRUCTIONS)}")
    texts = [t.format(shape=shape) for t in instructions for shape in (SHAPES if t == APPEARS else ("",))]
    events: dict[str, list[int]] = {text: [] for text in texts}
    seen: set[Sprite] = set()
    before: int | None = None
    for tick in range(start, stop):
        picture = world.shown(tick)
        if tick > start and picture != tick:
            continue
        scene = world.scene(picture)
        cut = tick > start and tick == scene.start
        found = _happens(scene, picture, None if cut else before, seen)
        for text in set(found) | ({CUT} if cut else set()):
            if text in events:
                events[text].append(tick)
        before = picture
    return [
        Watch(text, start / TICKS_PER_SECOND, tuple(tick / TICKS_PER_SECOND for tick in ticks))
        for text, ticks in events.items()
    ]


def happening(view: View) -> dict[str, str]:
    """Return the instructions that come true on the last picture of a view, each with what there is to say.

    Things that appear are named with their colour, other things by their shape, a digit by itself; the first picture
    of a view is that of its scene, and of a cut where scenes before it are remembered.
    """
    last = view.ticks[-1]
    seen = {sprite for tick in view.ticks[:-1] for sprite in view.scene.visible(tick) if view.scene.clear(sprite, tick)}
    found = _happens(view.scene, last, view.ticks[-2] if len(view.ticks) > 1 else None, seen)
    return found | ({CUT: "cut"} if len(view.ticks) == 1 and view.past else {})


def _happens(scene: Scene, tick: int, before: int | None, seen: set[Sprite]) -> dict[str, str]:
    """Return what comes true on a picture, given the one before of the same scene; extends ``seen``."""
    fresh = [sprite for sprite in scene.visible(tick) if sprite not in seen and scene.clear(sprite, tick)]
    seen |= set(fresh)
    found = {APPEARS.format(shape=sprite.shape): f"{sprite.colour_at(tick)} {sprite.shape}" for sprite in fresh}
    if before is None:
        return found
    stayed = [sprite for sprite in scene.visible(tick) if sprite.visible(before)]
    if other := [sprite for sprite in stayed if sprite.colour_at(tick) != sprite.colour_at(before)]:
        found[COLOUR] = _names(other)
    if gone := [sprite for sprite in scene.visible(before) if sprite not in stayed]:
        found[LEAVES] = _names(gone)
    if scene.digit(tick) != scene.digit(before):
        found[DIGIT] = str(scene.digit(tick))
    return found


def _names(sprites: list[Sprite]) -> str:
    return " ".join(sprite.shape for sprite in sprites)
