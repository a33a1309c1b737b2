"""From a scene and a tick to pixels, in integers only."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from headrace.video.world.generator import Draw, noise
from headrace.video.world.script import PANEL, Scene, World

RGB = {
    "red": (220, 40, 40),
    "green": (40, 185, 60),
    "blue": (50, 85, 235),
    "yellow": (240, 225, 50),
    "orange": (245, 140, 20),
    "purple": (145, 50, 185),
    "cyan": (60, 215, 225),
    "white": (245, 245, 245),
}
OUTLINE = (16, 16, 16)

# Corners on a grid from -1000 to 1000, y pointing down.
CORNERS: dict[str, tuple[tuple[int, int], ...]] = {
    "square": ((-850, -850), (850, -850), (850, 850), (-850, 850)),
    "triangle": ((0, -1000), (1000, 850), (-1000, 850)),
    "diamond": ((0, -1000), (720, 0), (0, 1000), (-720, 0)),
    "cross": tuple(
        (x, y)
        for x, y in (
            (-330, -1000), (330, -1000), (330, -330), (1000, -330), (1000, 330), (330, 330),
            (330, 1000), (-330, 1000), (-330, 330), (-1000, 330), (-1000, -330), (-330, -330),
        )
    ),
    "star": (
        (0, -1000), (247, -340), (951, -309), (400, 130), (588, 809),
        (0, 420), (-588, 809), (-400, 130), (-951, -309), (-247, -340),
    ),
}  # fmt: skip

# Segments a b c d e f g of each digit, a on top, then clockwise, g in the middle.
SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
# Left, top, right, bottom of each segment inside the display, in pixels.
BARS = {
    "a": (5, 4, 15, 7), "b": (12, 4, 15, 15), "c": (12, 13, 15, 24), "d": (5, 21, 15, 24),
    "e": (5, 13, 8, 24), "f": (5, 4, 8, 15), "g": (5, 12, 15, 15),
}  # fmt: skip


@lru_cache(maxsize=256)
def stencil(shape: str, radius: int) -> NDArray[np.bool_]:
    """Return the pixels a sprite covers.

    Args:
        shape: One of the world's shapes.
        radius: Half-width in pixels.

    Returns:
        (2 * radius + 1, 2 * radius + 1) booleans, the centre in the middle.
    """
    side = np.arange(-radius, radius + 1, dtype=np.int64)
    x, y = side[None, :] * 1000, side[:, None] * 1000
    if shape == "circle":
        return x * x + y * y <= (radius * 1000) ** 2
    inside = np.zeros((2 * radius + 1, 2 * radius + 1), dtype=np.bool_)
    corners = [(radius * u, radius * v) for u, v in CORNERS[shape]]
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        # A ray to the right crosses this edge: even-odd rule, multiplied out so that nothing is divided.
        side_of = (x - x1) * (y2 - y1) - (x2 - x1) * (y - y1)
        inside ^= ((y1 > y) != (y2 > y)) & ((side_of < 0) == (y2 > y1))
    return inside


@lru_cache(maxsize=16)
def backdrop(key: tuple[int, ...], size: int) -> NDArray[np.uint8]:
    """Return the picture behind a scene's sprites: soft blotches and grain in muted colours.

    Args:
        key: The scene's key.
        size: Height and width in pixels.

    Returns:
        (size, size, 3) uint8.
    """
    draw = Draw(*key, 3)
    cell = draw.pick((8, 16, 32))
    points = size // cell + 2
    at = np.arange(size, dtype=np.int64)
    i, f = at // cell, at % cell
    grain = noise((*key, 7), size, size) % 13 - 6
    planes = []
    shared = noise((*key, 4), points, points)
    for channel in range(3):
        own = noise((*key, 8 + channel), points, points)
        lattice = (shared * 3 + own) // 4
        rows = lattice[i] * (cell - f)[:, None] + lattice[i + 1] * f[:, None]
        smooth = (rows[:, i] * (cell - f) + rows[:, i + 1] * f) // (cell * cell)
        planes.append(draw.between(45, 85) + smooth * 50 // 255 + grain)
    picture = np.stack(planes, axis=2).astype(np.uint8)
    picture.setflags(write=False)
    return picture


def render(world: World, tick: int) -> NDArray[np.uint8]:
    """Draw the world at a tick.

    Args:
        world: The world.
        tick: Moment, >= 0.

    Returns:
        (size, size, 3) uint8, RGB; the same bytes on every machine.
    """
    scene, size = world.scene(tick), world.level.size
    picture = backdrop(scene.key, size).copy()
    for sprite in scene.visible(tick):
        x, y = sprite.centre(tick)
        _stamp(picture, stencil(sprite.shape, sprite.radius + 1), x, y, OUTLINE)
        _stamp(picture, stencil(sprite.shape, sprite.radius - 1), x, y, RGB[sprite.colour_at(tick)])
    _display(picture, scene, tick)
    return picture


def _stamp(picture: NDArray[np.uint8], mask: NDArray[np.bool_], x: int, y: int, colour: tuple[int, int, int]) -> None:
    radius = mask.shape[0] // 2
    picture[y - radius : y + radius + 1, x - radius : x + radius + 1][mask] = colour


def _display(picture: NDArray[np.uint8], scene: Scene, tick: int) -> None:
    x, y = scene.panel
    picture[y : y + PANEL[1], x : x + PANEL[0]] = (12, 24, 16)
    for name in SEGMENTS[scene.digit(tick)]:
        left, top, right, bottom = BARS[name]
        picture[y + top : y + bottom, x + left : x + right] = (150, 255, 170)
