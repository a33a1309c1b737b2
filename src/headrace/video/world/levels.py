"""How hard the world is: numbers that a scene is drawn from, and the three levels that are built in."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Level:
    """How hard the world is.

    The camera moves backdrop, things and bar together; the display is fixed to the picture, like a broadcaster's
    scoreboard. Everything from ``clutter`` on is off at the standard level.

    Attributes:
        name: What it is called.
        size: Height and width of the picture in pixels.
        scene_ticks: Shortest and longest scene.
        sprites: Fewest and most sprites that a scene tries to place.
        radius: Smallest and largest half-width of a sprite in pixels.
        speed: Slowest and fastest movement in pixels per tick.
        clutter: Fewest and most still decorations of a scene: grey outlines and blobs.
        distractors: Fewest and most moving things that are neither of a world's shapes nor of its colours.
        shake: Farthest the camera jumps on any tick, in pixels, to each side.
        pan: Farthest the camera drifts, in pixels, to each side; it moves one pixel per tick.
        drift: How far the brightness swings within a scene, in 256ths of full.
        noise: Largest error of a pixel's value, drawn anew for every tick.
        flashes: Percent of the scenes in which a sprite is seen for one frame alone.
        bar: Width in pixels of the bar that stands in front of six scenes in ten; 0 for none.
        ticks_per_frame: Ticks that one picture stands still for.
    """

    name: str = "standard"
    size: int = 128
    scene_ticks: tuple[int, int] = (12, 20)
    sprites: tuple[int, int] = (2, 6)
    radius: tuple[int, int] = (9, 14)
    speed: tuple[int, int] = (5, 9)
    clutter: tuple[int, int] = (0, 0)
    distractors: tuple[int, int] = (0, 0)
    shake: int = 0
    pan: int = 0
    drift: int = 0
    noise: int = 0
    flashes: int = 0
    bar: int = 0
    ticks_per_frame: int = 1

    def __post_init__(self) -> None:
        """Refuse what no scene could be drawn from.

        Raises:
            ValueError: A number is out of range.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = value if isinstance(value, tuple) else (0, value if isinstance(value, int) else 0)
            if not 0 <= low <= high:
                raise ValueError(f"{field.name}: {value!r} is not a range of numbers from 0 up")
        for name, most in (("drift", 128), ("noise", 63), ("flashes", 100)):
            if getattr(self, name) > most:
                raise ValueError(f"{name}: {getattr(self, name)} is more than {most}")
        if self.scene_ticks[0] < 8:
            raise ValueError(f"scene_ticks: a scene lasts 8 ticks or more, not {self.scene_ticks[0]}")
        if not 1 <= self.ticks_per_frame <= 4:  # a sprite stays 4 ticks or more: none goes unseen
            raise ValueError(f"ticks_per_frame: {self.ticks_per_frame} is not one of 1 to 4")
        if self.size < 96 or 4 * self.radius[1] + 4 * self.reach > self.size:
            raise ValueError(f"size: a picture of {self.size} pixels is too small for its things and its camera")

    @property
    def reach(self) -> int:
        """Farthest the camera strays from rest, in pixels, to each side."""
        return self.shake + self.pan


LEVELS = {
    level.name: level
    for level in (
        Level("easy", sprites=(2, 4), radius=(12, 16)),
        Level(),
        Level(
            "hard",
            size=160,
            sprites=(4, 6),
            radius=(7, 10),
            speed=(4, 8),
            clutter=(4, 8),
            distractors=(1, 3),
            shake=2,
            pan=5,
            drift=32,
            noise=10,
            flashes=70,
            bar=18,
        ),
    )
}
