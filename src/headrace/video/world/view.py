"""What a question may rest on: some frames of a scene, and of the scenes before it."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.video.world.scene import Scene
from headrace.video.world.script import World
from headrace.video.world.sprite import Sprite

ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
PLACES = tuple(" ".join(word for word in (r, c) if word) or "centre" for r in ROWS for c in COLUMNS)
MARGIN = 3  # pixels between a sprite's centre and the nearest line of the 3x3 grid, for "where" to be clear


@dataclass(frozen=True, slots=True)
class View:
    """Some ticks of one scene, in order: all that a question may rest on.

    A sprite is clear on a picture when it is there and hardly covered by the scene's bar.

    Attributes:
        scene: The scene.
        ticks: The ticks whose pictures have been seen, ascending.
        size: Height and width of the picture in pixels.
        past: What was seen of the scenes before this one, the oldest first; few kinds look there.
    """

    scene: Scene
    ticks: tuple[int, ...]
    size: int = 128
    past: tuple[View, ...] = ()

    @property
    def now(self) -> tuple[Sprite, ...]:
        """Sprites that are clear on the last picture."""
        return tuple(s for s in self.scene.visible(self.ticks[-1]) if self.scene.clear(s, self.ticks[-1]))

    @property
    def covered(self) -> tuple[Sprite, ...]:
        """Sprites that are there at the last tick, but behind the bar."""
        return tuple(s for s in self.scene.visible(self.ticks[-1]) if not self.scene.clear(s, self.ticks[-1]))

    @property
    def entries(self) -> dict[Sprite, int]:
        """Every sprite of the view with the tick where it is first there."""
        seen = {}
        for sprite in self.scene.sprites:
            tick = next((tick for tick in self.ticks if sprite.visible(tick)), None)
            if tick is not None:
                seen[sprite] = tick
        return seen

    @property
    def exits(self) -> dict[Sprite, int]:
        """Every sprite of the view that is gone at its end, with the tick where it is last there."""
        last = self.ticks[-1]
        return {
            sprite: next(tick for tick in reversed(self.ticks) if sprite.visible(tick))
            for sprite in self.entries
            if not sprite.visible(last)
        }

    @property
    def spacing(self) -> int:
        """Ticks from one picture to the next at the end of the view; 1 for a single picture."""
        return self.ticks[-1] - self.ticks[-2] if len(self.ticks) > 1 else 1

    def clearly(self, moments: dict[Sprite, int]) -> bool:
        """Tell whether every sprite is clear at its moment: a view cut off by its start need not see that."""
        return all(self.scene.clear(sprite, tick) for sprite, tick in moments.items())

    def colours(self, sprite: Sprite) -> list[str]:
        """Return the colours a sprite is seen in, one per tick where it is clear."""
        return [sprite.colour_at(tick) for tick in self.ticks if self.scene.clear(sprite, tick)]


def look(world: World, tick: int, *, scenes_back: int = 0) -> View:
    """Return what a viewer of the whole stream has seen of the current scene up to a tick.

    Args:
        world: The world.
        tick: Moment, >= 0.
        scenes_back: How many earlier scenes to remember; fewer where the stream has not had so many.
    """
    tick = world.shown(tick)
    scene = world.scene(tick)
    past: tuple[View, ...] = ()
    if scenes_back and scene.start:
        before = look(world, scene.start - 1, scenes_back=scenes_back - 1)
        past = (*before.past, before)
    return View(scene, tuple(range(scene.start, tick + 1, world.level.ticks_per_frame)), world.level.size, past)


def place(sprite: Sprite, tick: int, size: int, camera: tuple[int, int] = (0, 0)) -> str | None:
    """Name the ninth of the picture a sprite's centre lies in, None when it is too close to a line.

    Args:
        sprite: The sprite.
        tick: When.
        size: Height and width of the picture in pixels.
        camera: How far the camera shifts things then, to the right and down in pixels.
    """
    cells = []
    for at, shift in zip(sprite.centre(tick), camera, strict=True):
        value = at + shift
        cell, third = 3 * value // size, size // 3
        if min(abs(value - third), abs(value - 2 * third - 1)) < MARGIN:
            return None
        cells.append(cell)
    return PLACES[3 * cells[1] + cells[0]]
