"""A scene: what is there between two cuts, through which camera it is seen, and what stands in front."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.video.world.generator import Draw
from headrace.video.world.levels import Level
from headrace.video.world.sprite import Sprite, bounce

PANEL = (20, 28)  # width and height of the display in pixels
SHAKE, PAN, DRIFT = 20, 21, 22  # purposes of a draw
SWING = 8  # ticks in which the brightness goes from its lowest to its highest


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that stands in front from one edge of the picture to the other.

    Attributes:
        axis: 0 when it hides columns, 1 when it hides rows.
        low, high: First and last column (row) hidden with the camera at rest.
    """

    axis: int
    low: int
    high: int

    def covers(self, sprite: Sprite, tick: int) -> int:
        """Return how many columns (rows) of a sprite are hidden at a tick, of 2 * radius + 1."""
        at = sprite.centre(tick)[self.axis]
        return max(0, min(self.high, at + sprite.radius) - max(self.low, at - sprite.radius) + 1)


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene: ticks ``start`` <= t < ``stop``.

    Attributes:
        key: Integers its texture is drawn from.
        sprites: In the order they were placed; they never overlap.
        panel: Column and row of the display's upper left corner; the camera does not move it.
        digits: (tick, digit) of every value the display takes, the first at ``start``.
        level: The level it was drawn from.
        distractors: Things that are nobody's business; sprites pass in front of them.
        bar: What stands in front of the sprites.
    """

    key: tuple[int, ...]
    start: int
    stop: int
    sprites: tuple[Sprite, ...]
    panel: tuple[int, int]
    digits: tuple[tuple[int, int], ...]
    level: Level = field(default_factory=Level)
    distractors: tuple[Sprite, ...] = ()
    bar: Bar | None = None

    def digit(self, tick: int) -> int:
        """Return the digit on the display at a tick."""
        return [value for since, value in self.digits if since <= tick][-1]

    def visible(self, tick: int) -> tuple[Sprite, ...]:
        """Return the sprites that are there at a tick, be it behind the bar."""
        return tuple(sprite for sprite in self.sprites if sprite.visible(tick))

    def clear(self, sprite: Sprite, tick: int) -> bool:
        """Tell whether a sprite is there at a tick and at most a third of its width (height) is behind the bar."""
        if not sprite.visible(tick):
            return False
        return self.bar is None or 3 * self.bar.covers(sprite, tick) <= 2 * sprite.radius + 1

    def camera(self, tick: int) -> tuple[int, int]:
        """Return how far everything but the display is shifted to the right and down at a tick, in pixels."""
        shake, pan = self.level.shake, self.level.pan
        right = down = 0
        if pan:
            draw = Draw(*self.key, PAN)
            drift, across = bounce(draw.below(4 * pan) + tick - self.start, -pan, pan), draw.chance(50)
            right, down = (drift, 0) if across else (0, drift)
        if shake:
            draw = Draw(*self.key, SHAKE, tick)
            right, down = right + draw.between(-shake, shake), down + draw.between(-shake, shake)
        return right, down

    def centre(self, sprite: Sprite, tick: int) -> tuple[int, int]:
        """Return the column and row of a sprite's centre on the picture of a tick, in pixels."""
        (x, y), (right, down) = sprite.centre(tick), self.camera(tick)
        return x + right, y + down

    def gain(self, tick: int) -> int:
        """Return the brightness at a tick in 256ths."""
        most = self.level.drift
        if not most:
            return 256
        phase = Draw(*self.key, DRIFT).below(2 * SWING) + tick - self.start
        return 256 + most * bounce(phase, -SWING // 2, SWING // 2) * 2 // SWING
