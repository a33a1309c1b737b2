"""From worlds to training material: pictures, what every visual token shows, and where seeds come from.

Training worlds have seeds of ``TRAINING`` + a hash, so they are never smaller than 2^40; held-out worlds have seeds
``HELD_OUT`` + n with n < 2^20. The two never meet, nor does either meet the small seeds people type.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from headrace.video.world import Level, Scene, World, render
from headrace.video.world.generator import fold
from headrace.video.world.questions import place
from headrace.video.world.render import stencil
from headrace.video.world.script import COLOURS, PANEL, SHAPES

TRAINING, HELD_OUT = 1 << 40, 1 << 30
SIZE, GRID = 128, 8  # pixels and visual tokens per side of a frame as the tower gets it
STANDARD, CROWDED = Level(), Level("crowded", sprites=(4, 6), radius=(8, 14))
PLACES = tuple(
    name for row in ("top ", "", "bottom ") for name in (f"{row}left", row.strip() or "centre", f"{row}right")
)
SHOWS = 40  # pixels of 256 that something must cover for its token to show it


def training_world(seed: int, *keys: int, crowded: bool = False) -> World:
    """Return a training world; ``keys`` number it within the run of that seed."""
    return World(TRAINING + fold((seed, *keys)) % TRAINING, CROWDED if crowded else STANDARD)


def held_out_world(number: int, level: Level | None = None) -> World:
    """Return held-out world ``number``, 0 <= number < 2^20, at a level; standard when None."""
    return World(HELD_OUT + number, level or STANDARD)


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What the tokens of some frames show; ``N`` = frames * 64.

    Attributes:
        classes: (N, 7) int64: shape (6 = none), colour (8 = none), digit (10 = none), ninth of the picture the
            sprite's centre lies in (-100 = none), 1 for the token under a sprite's centre, row, column (both -100
            where nothing is shown).
        coordinates: (N, 4) float32: sprite centre relative to the token's centre and to the picture's centre, right
            and down, in units of 16 and 64 pixels; 0 where no sprite is shown.
        sprite: (N,) bool, True where a sprite is shown.
        number: (N,) int64, which of the scene's sprites that is, -1 for none.
        shown: (N,) bool, True where a sprite or the display is shown.
    """

    classes: Tensor
    coordinates: Tensor
    sprite: Tensor
    shown: Tensor
    number: Tensor

    def to(self, device: torch.device) -> Labels:
        """Move everything to a device."""
        fields = (self.classes, self.coordinates, self.sprite, self.shown, self.number)
        return Labels(*(part.to(device) for part in fields))


def label(scene: Scene, ticks: list[int], size: int = 128) -> Labels:
    """Label every token of the frames of a scene at some ticks."""
    side = size // GRID
    classes = np.full((len(ticks), GRID, GRID, 7), -100, dtype=np.int64)
    classes[..., :3], classes[..., 4] = (len(SHAPES), len(COLOURS), 10), 0
    coordinates = np.zeros((len(ticks), GRID, GRID, 4), dtype=np.float32)
    numbers = np.full((len(ticks), GRID, GRID), -1, dtype=np.int64)
    middle = np.arange(GRID) * side + side // 2
    for at, tick in enumerate(ticks):
        out = classes[at]
        canvas = np.zeros((size, size), dtype=np.bool_)
        canvas[scene.panel[1] : scene.panel[1] + PANEL[1], scene.panel[0] : scene.panel[0] + PANEL[0]] = True
        shown = _cover(canvas, side)
        out[shown, 2] = scene.digit(tick)
        for number, sprite in enumerate(scene.sprites):
            if not sprite.visible(tick):
                continue
            x, y = sprite.centre(tick)
            canvas[:] = False
            r = sprite.radius
            canvas[y - r : y + r + 1, x - r : x + r + 1] = stencil(sprite.shape, r)
            cells = _cover(canvas, side)
            cells[y // side, x // side] = True
            shown |= cells
            numbers[at][cells] = number
            out[cells, 0] = SHAPES.index(sprite.shape)
            out[cells, 1] = COLOURS.index(sprite.colour_at(tick))
            name = place(sprite, tick, size)
            out[cells, 3] = PLACES.index(name) if name else -100
            out[y // side, x // side, 4] = 1
            near = np.broadcast_arrays((x - middle)[None, :] / side, (y - middle)[:, None] / side)
            far = np.broadcast_to(np.array((x, y)) / (size // 2) - 1, (GRID, GRID, 2))
            coordinates[at][cells] = np.concatenate([np.stack(near, axis=2), far], axis=2)[cells]
        out[..., 5] = np.where(shown, np.arange(GRID)[:, None], -100)
        out[..., 6] = np.where(shown, np.arange(GRID)[None, :], -100)
    flat = torch.from_numpy(classes).reshape(-1, 7)
    return Labels(
        flat,
        torch.from_numpy(coordinates).reshape(-1, 4),
        torch.from_numpy(numbers >= 0).reshape(-1),
        flat[:, 5] >= 0,
        torch.from_numpy(numbers).reshape(-1),
    )


def _cover(canvas: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    covered: NDArray[np.bool_] = canvas.reshape(GRID, side, GRID, side).sum(axis=(1, 3)) >= SHOWS
    return covered


def film(world: World, ticks: list[int]) -> Tensor:
    """Render some ticks; returns (T, size, size, 3) uint8."""
    return torch.from_numpy(np.stack([render(world, tick) for tick in ticks]))


def pixels(pictures: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Turn pictures into the tower's input, with the blemishes of a compressed, resized video in training.

    Args:
        pictures: (T, height, width, 3) uint8.
        generator: Where the blemishes are drawn from, None for none.

    Returns:
        (T, 3, 128, 128) float32, -1..1.
    """

    def draw() -> float:
        return float(torch.rand((), generator=generator))

    if generator is not None and draw() < 0.5:
        quality = int(35 + 60 * draw())
        pictures = torch.stack([_jpeg(picture, quality) for picture in pictures])
    values = pictures.permute(0, 3, 1, 2).float()
    if values.shape[-1] != SIZE:
        values = F.interpolate(values, size=(SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)
    values = values.clamp(0, 255) / 127.5 - 1
    if generator is None:
        return values
    if draw() < 0.3:
        size = values.shape[-2:]
        double = F.interpolate(values, scale_factor=2.0)
        values = F.interpolate(double, size=size, mode="bicubic", antialias=True, align_corners=False)
    if draw() < 0.7:
        values = values + torch.randn(values.shape, generator=generator) * (0.06 * draw())
    return values * (0.95 + 0.1 * draw()) + (0.06 * draw() - 0.03)


def _jpeg(picture: Tensor, quality: int) -> Tensor:
    """Compress a (height, width, 3) uint8 picture and decompress it."""
    file = io.BytesIO()
    Image.fromarray(picture.numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file)))
