"""A stream that jumps to another place every so many seconds, with questions that only rest on where it is now.

The world's own scenes last several seconds. Here each stretch comes out of the middle of a scene of another world, so
that a cut may come as often as every second frame, and the truth about a stretch is still the world's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from headrace.types import Frame
from headrace.video.world import ALL_KINDS, LEVELS, TICKS_PER_SECOND, Question, View, World
from headrace.video.world.generator import Draw
from headrace.video.world.render import render

STRETCH, ASK = 90, 91  # purposes of a draw
FIRST_WORLD = 1 << 52  # seeds of the worlds that stretches are taken from
KINDS = tuple(name for name, kind in ALL_KINDS.items() if not kind.scenes_back)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of a scene.

    Attributes:
        world: Where it comes from.
        since: First frame of the stream that shows it.
        start: The world's tick on that frame.
        num: Frames.
    """

    world: World
    since: int
    start: int
    num: int


@dataclass(frozen=True, slots=True)
class Cuts:
    """An endless stream of stretches.

    Attributes:
        seed: Number of the stream; with an odd one the first stretch is a frame shorter, so that over many streams cuts
            fall on even and on odd frames.
        level: Level of the worlds.
        cut_s: Seconds per stretch.
    """

    seed: int
    level: str
    cut_s: float

    def __post_init__(self) -> None:
        if not 2 <= self._length <= LEVELS[self.level].scene_ticks[0]:
            most = LEVELS[self.level].scene_ticks[0] / TICKS_PER_SECOND
            raise ValueError(f"cut: {self.cut_s:g} s between cuts is not possible; give 1 to {most:g} s")

    @property
    def _length(self) -> int:
        return round(self.cut_s * TICKS_PER_SECOND)

    def at(self, index: int) -> Stretch:
        """Return the stretch that a frame belongs to."""
        early, length = self.seed % 2, self._length
        number = (index + early) // length
        since = max(0, number * length - early)
        num, draw = (number + 1) * length - early - since, Draw(self.seed, STRETCH, number)
        world = World(FIRST_WORLD + draw.below(1 << 40), LEVELS[self.level])
        tick = draw.between(0, 200)
        scene = world.scene(tick)
        return Stretch(world, since, min(tick, scene.stop - num), num)

    def frames(self, num: int) -> Iterator[Frame]:
        """Yield the first ``num`` frames."""
        for index in range(num):
            stretch = self.at(index)
            picture = render(stretch.world, stretch.start + index - stretch.since)
            yield Frame(index, index / TICKS_PER_SECOND, torch.from_numpy(picture))

    def questions(self, index: int) -> list[Question]:
        """Return at most one question of each kind, asked right after a frame; they rest on its stretch so far."""
        stretch, asked = self.at(index), []
        last = stretch.start + index - stretch.since
        view = View(stretch.world.scene(last), tuple(range(stretch.start, last + 1)), stretch.world.level.size)
        for number, name in enumerate(KINDS):
            found = ALL_KINDS[name].ask(view, Draw(self.seed, ASK, index, number))
            if found is not None:
                asked.append(Question(name, *found, time_s=index / TICKS_PER_SECOND))
        return asked
