"""What lies behind a scene's things: a texture, and still clutter that looks like things and is none."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from headrace.video.world.generator import Draw, noise
from headrace.video.world.levels import Level
from headrace.video.world.look import stencil
from headrace.video.world.sprite import SHAPES

TEXTURE, CLUTTER = 3, 13  # purposes of a draw


@lru_cache(maxsize=16)
def backdrop(key: tuple[int, ...], size: int) -> NDArray[np.uint8]:
    """Return a scene's texture: soft blotches and grain in muted colours.

    Args:
        key: The scene's key.
        size: Height and width in pixels.

    Returns:
        (size, size, 3) uint8.
    """
    draw = Draw(*key, TEXTURE)
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


@lru_cache(maxsize=16)
def scenery(key: tuple[int, ...], level: Level) -> NDArray[np.uint8]:
    """Return a scene's texture with its clutter, wide enough for a camera that strays.

    Args:
        key: The scene's key.
        level: The scene's level.

    Returns:
        (side, side, 3) uint8, side = size + 2 * reach.
    """
    side = level.size + 2 * level.reach
    picture, draw = backdrop(key, side).copy(), Draw(*key, CLUTTER)
    for _ in range(draw.between(*level.clutter)):
        shape, radius = draw.pick(SHAPES), draw.between(*level.radius)
        mask = stencil(shape, radius).copy()
        if draw.chance(60):  # an outline
            mask[2:-2, 2:-2] &= ~stencil(shape, radius - 2)
        grey = draw.between(100, 165)
        left, top = (draw.below(side - 2 * radius) for _ in range(2))
        window = picture[top : top + 2 * radius + 1, left : left + 2 * radius + 1]
        window[mask] = [grey + draw.between(-8, 8) for _ in range(3)]
    picture.setflags(write=False)
    return picture
