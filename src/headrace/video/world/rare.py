"""A world in which some things are seen once and never again, for questions about what was long ago.

nano's questions speak of the present scene and the one before. Long ago, a question can only be answered when
it names something that no other moment shows: here some of the shapes, each worn in one scene alone, by a thing that
stays where it is in one colour. All other scenes are those of the world of the same seed, without these shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from headrace.video.world.casting import fits
from headrace.video.world.generator import Draw
from headrace.video.world.levels import Level
from headrace.video.world.questions import Question
from headrace.video.world.scene import Scene
from headrace.video.world.script import TICKS_PER_SECOND, World
from headrace.video.world.sprite import COLOURS, SHAPES, Sprite
from headrace.video.world.view import place

RARE, MOMENT = 15, 16  # purposes of a draw
NUM_RARE = 3  # shapes of six
EVERY_S = 30.0  # seconds from one moment to the next; longer than two scenes
TRIES = 400  # places tried for a thing before one of the others makes room
COLOUR, COLOUR_BEFORE, WHERE = (
    ("colour", "what colour is the {shape}?"),
    ("scene_before", "what colour was the {shape} before the cut?"),
    ("where", "where is the {shape}?"),
)


@dataclass(frozen=True, slots=True)
class Moment:
    """A scene that shows a rare thing.

    Attributes:
        start: Its first tick.
        stop: The tick of the cut that ends it.
        shape: The thing, which no other scene shows.
        colour: Its colour.
        place: The ninth of the picture it lies in.
    """

    start: int
    stop: int
    shape: str
    colour: str
    place: str

    def questions(self, tick: int, *, here: bool) -> list[Question]:
        """Ask about it right after the frame at a tick; ``here`` tells that its scene goes on.

        Returns:
            Its colour as of now, its colour before a cut, its place; nano knows these texts.
        """
        answers = ((COLOUR, self.colour), *(() if here else ((COLOUR_BEFORE, self.colour),)), (WHERE, self.place))
        return [
            Question(kind, text.format(shape=self.shape), answer, tick / TICKS_PER_SECOND)
            for (kind, text), answer in answers
        ]


@dataclass(frozen=True, slots=True)
class RareWorld(World):
    """An endless stream whose first minutes show ``NUM_RARE`` things that never come again."""

    def scene(self, tick: int) -> Scene:
        """Return the scene that tick ``tick`` >= 0 belongs to."""
        return _recast(self.seed, self.level, World.scene(self, tick).start)[0]

    def moments(self) -> list[Moment]:
        """The scenes with rare things, in order."""
        found = [_recast(self.seed, self.level, start)[1] for start in _starts(self.seed, self.level)]
        return [moment for moment in found if moment is not None]


def _starts(seed: int, level: Level) -> list[int]:
    """First ticks of the scenes that show something rare."""
    step = int(EVERY_S * TICKS_PER_SECOND)
    return [World(seed, level).scene((number + 1) * step).start for number in range(NUM_RARE)]


@lru_cache(maxsize=64)
def _recast(seed: int, level: Level, start: int) -> tuple[Scene, Moment | None]:
    """The scene that starts at a tick, without rare shapes, or with the one that is its own."""
    scene = World(seed, level).scene(start)
    rare, starts = Draw(seed, RARE).shuffled(SHAPES)[:NUM_RARE], _starts(seed, level)
    common = replace(scene, sprites=tuple(sprite for sprite in scene.sprites if sprite.shape not in rare))
    if start not in starts:
        return common, None
    return _joined(common, rare[starts.index(start)], Draw(seed, MOMENT, start))


def _joined(scene: Scene, shape: str, draw: Draw) -> tuple[Scene, Moment]:
    """Put a thing that stays into a scene, clear of all others; these leave one by one where there is no room."""
    colour, radius, size = draw.pick(COLOURS), draw.between(*scene.level.radius), scene.level.size
    low, high = radius + 2 + scene.level.reach, size - radius - 3 - scene.level.reach
    while True:
        for _ in range(TRIES):
            at = draw.between(low, high), draw.between(low, high)
            times = {"appears": scene.start, "changes": scene.stop, "leaves": scene.stop}
            sprite = Sprite(
                shape, colour, colour, **times, radius=radius, start=at, velocity=(0, 0), low=low, high=high
            )
            places = {place(sprite, tick, size, scene.camera(tick)) for tick in range(scene.start, scene.stop)}
            where = places.pop()
            if where is not None and not places and fits(sprite, scene):
                found = Moment(scene.start, scene.stop, shape, colour, where)
                return replace(scene, sprites=(*scene.sprites, sprite)), found
        scene = replace(scene, sprites=scene.sprites[:-1])
