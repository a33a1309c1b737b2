"""From a scene and a tick to pixels, in integers only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.video.world.backdrop import scenery
from headrace.video.world.generator import grain
from headrace.video.world.look import CORNERS, ODD_RGB, OUTLINE, RGB, stencil
from headrace.video.world.scene import PANEL, Scene
from headrace.video.world.script import World

__all__ = ["CORNERS", "RGB", "render", "stencil"]

NOISE = 23  # purpose of a draw
BAR_RGB, BAR_EDGE = (92, 84, 78), (58, 52, 48)

# Segments a b c d e f g of each digit, a on top, then clockwise, g in the middle.
SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
# Left, top, right, bottom of each segment inside the display, in pixels.
BARS = {
    "a": (5, 4, 15, 7), "b": (12, 4, 15, 15), "c": (12, 13, 15, 24), "d": (5, 21, 15, 24),
    "e": (5, 13, 8, 24), "f": (5, 4, 8, 15), "g": (5, 12, 15, 15),
}  # fmt: skip


def render(world: World, tick: int) -> NDArray[np.uint8]:
    """Draw the world at a tick.

    Args:
        world: The world.
        tick: Moment, >= 0.

    Returns:
        (size, size, 3) uint8, RGB; the same bytes on every machine.
    """
    tick = world.shown(tick)
    scene, size, reach = world.scene(tick), world.level.size, world.level.reach
    right, down = scene.camera(tick)
    left, top = reach - right, reach - down
    picture = scenery(scene.key, world.level)[top : top + size, left : left + size].copy()
    for thing in scene.distractors:
        x, y = thing.centre(tick)
        _stamp(picture, stencil(thing.shape, thing.radius), (x + right, y + down), ODD_RGB[thing.colour])
    for sprite in scene.visible(tick):
        x, y = sprite.centre(tick)
        at = (x + right, y + down)
        _stamp(picture, stencil(sprite.shape, sprite.radius + 1), at, OUTLINE)
        _stamp(picture, stencil(sprite.shape, sprite.radius - 1), at, RGB[sprite.colour_at(tick)])
    if scene.bar:
        shift = (right, down)[scene.bar.axis]
        _bar(picture if scene.bar.axis else picture.swapaxes(0, 1), scene.bar.low + shift, scene.bar.high + shift)
    _display(picture, scene, tick)
    return _sensor(picture, scene, tick)


def _stamp(
    picture: NDArray[np.uint8], mask: NDArray[np.bool_], at: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    radius, (x, y) = mask.shape[0] // 2, at
    picture[y - radius : y + radius + 1, x - radius : x + radius + 1][mask] = colour


def _bar(picture: NDArray[np.uint8], low: int, high: int) -> None:
    picture[low : high + 1] = BAR_EDGE
    picture[low + 1 : high] = BAR_RGB


def _display(picture: NDArray[np.uint8], scene: Scene, tick: int) -> None:
    x, y = scene.panel
    picture[y : y + PANEL[1], x : x + PANEL[0]] = (12, 24, 16)
    for name in SEGMENTS[scene.digit(tick)]:
        left, top, right, bottom = BARS[name]
        picture[y + top : y + bottom, x + left : x + right] = (150, 255, 170)


def _sensor(picture: NDArray[np.uint8], scene: Scene, tick: int) -> NDArray[np.uint8]:
    """Expose a picture as the scene's brightness has it, and add the noise of the tick."""
    gain, most = scene.gain(tick), scene.level.noise
    if gain != 256:
        table = np.minimum(np.arange(256) * gain // 256, 255).astype(np.uint8)
        picture = table[picture]
    if most:
        error = grain((*scene.key, NOISE, tick), picture.shape).astype(np.int16) * (2 * most + 1) // 256 - most
        picture = np.clip(picture.astype(np.int16) + error, 0, 255).astype(np.uint8)
    return picture
