"""A thing of the world: what it is, when it is there, where it goes."""

from __future__ import annotations

from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "cyan", "white")
ODD_SHAPES = ("ring", "slab", "chevron")  # what a distractor may look like
ODD_COLOURS = ("pink", "brown", "olive", "grey")
DIRECTIONS = {"still": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True, slots=True)
class Sprite:
    """One thing of a scene; there at ticks ``appears`` <= t < ``leaves``.

    Attributes:
        shape: Name, one of ``SHAPES``; a shape is worn by at most one sprite of a scene.
        colour: Name, one of ``COLOURS``, worn until ``changes``.
        later: Colour from tick ``changes`` on; the same as ``colour`` when it never changes.
        changes: Tick of the change, or ``leaves``.
        radius: Half-width in pixels.
        start: Column and row of the centre at ``appears``, with the camera at rest.
        velocity: Pixels per tick to the right and down; of a sprite at most one is not 0, of a distractor both.
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
        """Tell whether the sprite is there at a tick, be it behind a bar."""
        return self.appears <= tick < self.leaves

    def colour_at(self, tick: int) -> str:
        """Return the colour worn at a tick."""
        return self.colour if tick < self.changes else self.later

    def centre(self, tick: int) -> tuple[int, int]:
        """Return the column and row of the centre at a tick, in pixels, with the camera at rest."""
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
        step, speed = (x1 - x0, y1 - y0), max(1, *(abs(v) for v in self.velocity))
        if any(abs(s) != abs(v) for s, v in zip(step, self.velocity, strict=True)):
            return None
        unit = tuple(s // speed for s in step)
        return next((name for name, way in DIRECTIONS.items() if way == unit), None)


def bounce(value: int, low: int, high: int) -> int:
    """Reflect a coordinate at both ends of low..high until it lies inside."""
    span = high - low
    offset = (value - low) % (2 * span)
    return low + min(offset, 2 * span - offset)
