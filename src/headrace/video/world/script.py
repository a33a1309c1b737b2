"""What happens in the world, known at any tick without playing from the start.

Time counts in ticks, two per second. It is cut into blocks of fixed length, each block into two scenes at a drawn
tick; a scene is drawn from (seed, scene number) alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.video.world.casting import cast
from headrace.video.world.generator import Draw
from headrace.video.world.levels import LEVELS, Level
from headrace.video.world.scene import PANEL, Bar, Scene
from headrace.video.world.sprite import COLOURS, DIRECTIONS, SHAPES, Sprite, bounce

__all__ = [
    "COLOURS",
    "DIRECTIONS",
    "LEVELS",
    "PANEL",
    "SHAPES",
    "TICKS_PER_SECOND",
    "Bar",
    "Level",
    "Scene",
    "Sprite",
    "World",
    "bounce",
]

TICKS_PER_SECOND = 2
CUT = 1  # purpose of a draw


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
        return cast(self.seed, self.level, 2 * block + (inside >= cut), base + start, base + stop)

    def shown(self, tick: int) -> int:
        """Return the tick whose picture is up at a tick: itself, or an earlier one at a low frame rate.

        A picture is never held over a cut: every scene starts with one of its own.
        """
        hold = self.level.ticks_per_frame
        return tick if hold == 1 else tick - (tick - self.scene(tick).start) % hold
