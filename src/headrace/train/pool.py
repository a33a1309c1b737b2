"""A rolling pool of seen scenes: the tower is frozen from phase 2 on, so a scene's tokens are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.train.clips import GRID, film, label, pixels, training_world
from headrace.train.see import look
from headrace.video.world import Scene, View, World
from headrace.video.world.generator import Draw


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """A stretch of one scene as the tower saw it.

    Attributes:
        scene: The scene.
        ticks: The ticks that were looked at, ascending, without gaps.
        size: Height and width of the picture in pixels.
        features: (T, 64, D) visual tokens.
        change: (T, 64) mean absolute change of the token's pixels since the frame before, 0..255; 255 in the first.
        shown: (T, 64) bool, where a sprite or the display is.
        sprites: (T, 64) int64, which of the scene's sprites is there, -1 for none.
    """

    scene: Scene
    ticks: tuple[int, ...]
    size: int
    features: Tensor
    change: Tensor
    shown: Tensor
    sprites: Tensor


@torch.no_grad()
def take(model: Any, world: World, ticks: list[int], generator: torch.Generator | None = None) -> Take:
    """Look at consecutive ticks of one scene; ``generator`` draws blemishes, None for clean pictures."""
    device = model.model.image_newline.device
    scene, pictures = world.scene(ticks[0]), film(world, ticks)
    with torch.autocast(device.type, torch.bfloat16):
        tokens = look(model, pixels(pictures, generator).to(device))
    moved = (pictures.float() - pictures.roll(1, dims=0).float()).abs().mean(dim=3)
    change = F.avg_pool2d(moved, world.level.size // GRID).flatten(1)
    change[0] = 255.0
    labels = label(scene, ticks, world.level.size)
    return Take(
        scene,
        tuple(ticks),
        world.level.size,
        tokens.to(torch.bfloat16),
        change,
        labels.shown.reshape(len(ticks), -1),
        labels.number.reshape(len(ticks), -1),
    )


class Pool:
    """Takes of whole training scenes; the oldest make room for new ones.

    Args:
        model: The LLaVA-OneVision model whose tower looks.
        keys: Integers that number this pool's worlds: seed, phase, step at which it was opened.
        crowded: Share of worlds with many sprites, in percent.
        capacity: Number of takes held once it is full.
    """

    def __init__(self, model: Any, keys: tuple[int, ...], *, crowded: int, capacity: int = 256) -> None:
        self._model, self._keys, self._crowded, self._capacity = model, keys, crowded, capacity
        self._made = 0
        self.takes: list[Take] = []

    def add(self, num: int) -> None:
        """Look at ``num`` more scenes."""
        for _ in range(num):
            draw = Draw(*self._keys, self._made)
            world = training_world(*self._keys, self._made, crowded=draw.chance(self._crowded))
            scene = world.scene(draw.below(200))
            generator = torch.Generator().manual_seed(draw.below(1 << 60))
            new = take(self._model, world, list(range(scene.start, scene.stop)), generator)
            if len(self.takes) < self._capacity:
                self.takes.append(new)
            else:
                self.takes[self._made % self._capacity] = new
            self._made += 1


def views(frames: Sequence[tuple[Take, int]]) -> list[View]:
    """Return what a viewer of a clip knows at the end of each of its frames."""
    found: list[View] = []
    before: Take | None = None
    for take, index in frames:
        if take is before:
            old = found[-1]
            view = View(take.scene, (*old.ticks, take.ticks[index]), take.size, old.past)
        else:
            past = (found[-1],) if found else ()
            view = View(take.scene, (take.ticks[index],), take.size, past)
        found.append(view)
        before = take
    return found
