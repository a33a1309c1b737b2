"""Which parts of a picture show something: the truth an oracle needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.video.world.look import stencil
from headrace.video.world.script import PANEL, World


def foreground(world: World, tick: int, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell which cells of a grid laid over the picture show a sprite or the display.

    Clutter, distractors and the bar are background, and so is what the bar hides of a sprite.

    Args:
        world: The world.
        tick: Moment, >= 0.
        grid: (rows, columns).

    Returns:
        (rows, columns) booleans, True where at least one pixel of a sprite or of the display lies in the cell.
    """
    tick = world.shown(tick)
    scene, size = world.scene(tick), world.level.size
    canvas = np.zeros((size, size), dtype=np.bool_)
    for sprite in scene.visible(tick):
        (x, y), r = scene.centre(sprite, tick), sprite.radius
        canvas[y - r : y + r + 1, x - r : x + r + 1] |= stencil(sprite.shape, r)
    if bar := scene.bar:
        shift = scene.camera(tick)[bar.axis]
        lines = canvas if bar.axis else canvas.T
        lines[bar.low + shift : bar.high + shift + 1] = False
    left, top = scene.panel
    canvas[top : top + PANEL[1], left : left + PANEL[0]] = True
    shown = np.zeros(grid, dtype=np.bool_)
    rows, columns = np.nonzero(canvas)
    shown[rows * grid[0] // size, columns * grid[1] // size] = True
    return shown
