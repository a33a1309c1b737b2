"""What happens in the world: scenes, sprites and the display, known at any tick without playing from the start.

Time counts in ticks, two per second. It is cut into blocks of fixed length, each block into two scenes at a drawn
tick; a scene is drawn from (seed, scene number) alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from headrace.video.world.generator import Draw

TICKS_PER_SECOND = 2
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "cyan", "white")
DIRECTIONS = {"still": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
CUT, SCENE = 1, 2  # purposes of a draw


@dataclass(frozen=True, slots=True)
class Level:
    """How hard the world is.

    Attributes:
        name: What it is called.
        size: Height and width of the picture in pixels.
        scene_ticks: Shortest and longest scene.
        sprites: Fewest and most sprites that a scene tries to place.
        radius: Smallest and largest half-width of a sprite in pixels.
        speed: Slowest and fastest movement in pixels per tick.
    """

    name: str = "standard"
    size: int = 128
    scene_ticks: tuple[int, int] = (12, 20)
    sprites: tuple[int, int] = (2, 6)
    radius: tuple[int, int] = (9, 14)
    speed: tuple[int, int] = (5, 9)


LEVELS = {"standard": Level()}


@dataclass(frozen=True, slots=True)
class Sprite:
    """One thing of a scene; visible at ticks ``appears`` <= t < ``leaves``.

    Attributes:
        shape: Name, one of ``SHAPES``; a shape is worn by at most one sprite of a scene.
        colour: Name, one of ``COLOURS``, worn until ``changes``.
        later: Colour from tick ``changes`` on; the same as ``colour`` when it never changes.
        changes: Tick of the change, or ``leaves``.
        radius: Half-width in pixels.
        start: Column and row of the centre at ``appears``.
        velocity: Pixels per tick to the right and down; at most one is not 0.
        low, high: Range of the moving coordinate: the sprite bounces there.
    """

    shape: str
    colour: str
    later: str
    appears: int
    changes: int
    leaves: int
    radius: int
    start: tuple[int, int]
    velocity: tuple[int, int]
    low: int
    high: int

    def visible(self, tick: int) -> bool:
        """Tell whether the sprite is on the picture at a tick."""
        return self.appears <= tick < self.leaves

    def colour_at(self, tick: int) -> str:
        """Return the colour worn at a tick."""
        return self.colour if tick < self.changes else self.later

    def centre(self, tick: int) -> tuple[int, int]:
        """Return the column and row of the centre at a tick, in pixels."""
        age = tick - self.appears
        x, y = self.start
        return (
            bounce(x + self.velocity[0] * age, self.low, self.high) if self.velocity[0] else x,
            bounce(y + self.velocity[1] * age, self.low, self.high) if self.velocity[1] else y,
        )

    def heading(self, tick: int) -> str | None:
        """Return the direction of the step that led to ``tick``, None when it bounced or had just appeared."""
        if tick <= self.appears:
            return None
        (x0, y0), (x1, y1) = self.centre(tick - 1), self.centre(tick)
        step, speed = (x1 - x0, y1 - y0), max(abs(v) for v in self.velocity)
        unit = tuple(s // speed if speed and s % speed == 0 else s for s in step)
        return next((name for name, way in DIRECTIONS.items() if way == unit), None)


def bounce(value: int, low: int, high: int) -> int:
    """Reflect a coordinate at both ends of low..high until it lies inside."""
    span = high - low
    offset = (value - low) % (2 * span)
    return low + min(offset, 2 * span - offset)


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene: ticks ``start`` <= t < ``stop``.

    Attributes:
        key: Integers its texture is drawn from.
        sprites: In the order they were placed; they never overlap.
        panel: Column and row of the display's upper left corner.
        digits: (tick, digit) of every value the display takes, the first at ``start``.
    """

    key: tuple[int, ...]
    start: int
    stop: int
    sprites: tuple[Sprite, ...]
    panel: tuple[int, int]
    digits: tuple[tuple[int, int], ...]

    def digit(self, tick: int) -> int:
        """Return the digit on the display at a tick."""
        return [value for since, value in self.digits if since <= tick][-1]

    def visible(self, tick: int) -> tuple[Sprite, ...]:
        """Return the sprites on the picture at a tick."""
        return tuple(sprite for sprite in self.sprites if sprite.visible(tick))


PANEL = (20, 28)  # width and height of the display in pixels


@dataclass(frozen=True, slots=True)
class World:
    """An endless stream, described by its seed and its level."""

    seed: int
    level: Level = field(default_factory=Level)

    def scene(self, tick: int) -> Scene:
        """Return the scene that tick ``tick`` >= 0 belongs to."""
        if tick < 0:
            raise ValueError(f"tick must not be negative, not {tick}")
        low, high = self.level.scene_ticks
        block, inside = divmod(tick, low + high)
        cut = Draw(self.seed, CUT, block).between(low, high)
        start, stop = (0, cut) if inside < cut else (cut, low + high)
        base = block * (low + high)
        return _scene(self, 2 * block + (inside >= cut), base + start, base + stop)


@lru_cache(maxsize=64)
def _scene(world: World, number: int, start: int, stop: int) -> Scene:
    draw, level = Draw(world.seed, SCENE, number), world.level
    corner = level.size - 4
    panel = (draw.pick((4, corner - PANEL[0])), draw.pick((4, corner - PANEL[1])))
    sprites: list[Sprite] = []
    shapes = draw.shuffled(SHAPES)[: draw.between(*level.sprites)]
    early = draw.pick((1, 1, 1, 2, 4))
    for place, shape in enumerate(shapes):
        appears = start if place < early else start + draw.between(1, stop - start - 4)
        plan = _plan(draw, level, shape, appears, stop)
        for _ in range(40):
            sprite = _place(draw, level, plan)
            if _fits(sprite, sprites, panel, stop):
                sprites.append(sprite)
                break
    return Scene((world.seed, SCENE, number), start, stop, tuple(sprites), panel, _digits(draw, start, stop))


def _digits(draw: Draw, start: int, stop: int) -> tuple[tuple[int, int], ...]:
    digits = [(start, draw.below(10))]
    while (tick := digits[-1][0] + draw.between(4, 10)) < stop:
        digits.append((tick, (digits[-1][1] + draw.between(1, 9)) % 10))
    return tuple(digits)


def _plan(draw: Draw, level: Level, shape: str, appears: int, stop: int) -> Sprite:
    """Draw everything about a sprite but its place."""
    leaves = draw.between(appears + 4, stop - 1) if draw.chance(40) and appears + 5 < stop else stop
    colour = draw.below(len(COLOURS))
    later, changes = colour, leaves
    if leaves - appears >= 5 and draw.chance(60):
        later = (colour + draw.between(1, len(COLOURS) - 1)) % len(COLOURS)
        changes = draw.between(appears + 2, leaves - 2)
    way = DIRECTIONS[draw.pick(tuple(DIRECTIONS))]
    speed = draw.between(*level.speed)
    radius = draw.between(*level.radius)
    return Sprite(
        shape=shape,
        colour=COLOURS[colour],
        later=COLOURS[later],
        appears=appears,
        changes=changes,
        leaves=leaves,
        radius=radius,
        start=(0, 0),
        velocity=(way[0] * speed, way[1] * speed),
        low=radius + 2,
        high=level.size - radius - 3,
    )


def _place(draw: Draw, level: Level, plan: Sprite) -> Sprite:
    start = (draw.between(plan.low, plan.high), draw.between(plan.low, plan.high))
    return replace(plan, start=start)


def _fits(sprite: Sprite, others: list[Sprite], panel: tuple[int, int], stop: int) -> bool:
    """Tell whether a sprite stays clear of the display and of all others for as long as it is visible."""
    middle = (panel[0] + PANEL[0] // 2, panel[1] + PANEL[1] // 2)
    for tick in range(sprite.appears, min(sprite.leaves, stop)):
        x, y = sprite.centre(tick)
        clear = sprite.radius + 2
        if abs(x - middle[0]) < clear + PANEL[0] // 2 and abs(y - middle[1]) < clear + PANEL[1] // 2:
            return False
        for other in others:
            if other.visible(tick):
                u, v = other.centre(tick)
                if abs(x - u) < clear + other.radius and abs(y - v) < clear + other.radius:
                    return False
    return True
