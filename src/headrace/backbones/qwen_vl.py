"""What Qwen2.5-VL and Qwen3-VL share: pairs of frames, any size of picture, and positions on three axes.

A stream's size is fixed by its first frame (``backbones/looking.py``), so what depends on it (where patches stand,
which windows there are) belongs to a light sibling of the adapter that shares all weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from headrace.backbones.adapter import Adapter, raster
from headrace.backbones.decoder import read_rope
from headrace.backbones.looking import check_view, fit, most_tokens, read_edges
from headrace.backbones.pictures import Pictures
from headrace.backbones.qwen_tower import MERGE, Plan, QwenBlock, cut_patches
from headrace.protocols import VisionBlock
from headrace.types import Frame, View, VisualTokens

STREAM_TOKENS = 134.4  # per frame: what the processors leave a frame of an endless clip, 1.05 times the least of 128


class QwenVL(Adapter):
    """One set of weights, as one stream's size of pictures sees it.

    A family's class says how rows are laid out (``_plan_for``, ``_open``), what is added to patches, and what stands
    around visual tokens.

    Args:
        model: The loaded transformers model.
        tokenizer: Its tokenizer, with chat template.
        pictures: Settings of its picture processor.
        name: What to call it.
        rope: How the three axes are spread over the channels, ``chunked`` or ``interleaved``.

    Raises:
        ValueError: The configuration asks for something that is not supported.
    """

    edges_of_a_frame: ClassVar[bool]  # what a processor file says of pixels is meant for a frame, not for a whole video

    def __init__(self, model: Any, tokenizer: Any, pictures: Pictures, *, name: str, rope: str, **own: Any) -> None:
        config, vision = model.config, model.config.vision_config
        video = tokenizer.convert_ids_to_tokens(config.video_token_id)
        decoder = model.model.language_model
        super().__init__(model, decoder, tokenizer, video=video)
        self._tower, self._pictures = model.model.visual, pictures
        if vision.spatial_merge_size != MERGE:
            raise ValueError(f"spatial_merge_size: {vision.spatial_merge_size} is not supported; released models use 2")
        for field in ("patch_size", "temporal_patch_size"):
            if not isinstance(getattr(vision, field), int):
                raise ValueError(f"{field}: {getattr(vision, field)} is not supported; it must be one whole number")
        edges = read_edges(pictures.settings)
        self._least = edges[0]  # for a whole video in Qwen3-VL: here a frame may be all there is
        self._most = edges[1] if self.edges_of_a_frame else math.inf
        self._patch, self._unit = vision.patch_size, vision.patch_size * MERGE
        self._plan: Plan | None = None
        self._blocks: tuple[QwenBlock, ...] = ()
        section = tuple(config.text_config.rope_parameters["mrope_section"])
        self.spec = self._describe(
            name,
            grid=(0, 0),
            vision_layers=len(self._tower.blocks),
            vision_dim=vision.hidden_size,
            frames_per_step=vision.temporal_patch_size,
            rope=read_rope(decoder, config.text_config, kind=rope, section=section),
            position_rows=3,
            positions="original",  # arrival numbers would lose rows and columns
            **own,
        )
        self._look(View())

    @staticmethod
    def _sized(config: Any) -> dict[str, Any]:
        return {}

    def choose(self, view: View, frame: Frame) -> View:
        """Fix the size of all frames by the first one's shape."""
        if view.size is not None:
            return view
        least, most = self._range(view)
        return replace(view, size=self._fit(frame.image.shape[0], frame.image.shape[1], least, most))

    def at(self, view: View) -> Self:
        """Look through another view, on the same weights."""
        twin = copy(self)
        twin._look(view)
        return twin

    def _look(self, view: View) -> None:
        """Lay everything out that depends on the view."""
        check_view(view)
        if view.max_pixels is not None and view.max_pixels < self._unit**2:
            raise ValueError(f"max_pixels: {view.max_pixels} is less than one visual token, {self._unit**2}")
        self.view = view
        if view.size is None:
            grid = (1, most_tokens(unit=self._unit, most=self._range(view)[1]))
            self.spec = replace(self.spec, grid=grid)
            return
        rows, cols = (side // self._unit for side in view.size)
        self._plan = plan = self._plan_for((rows * MERGE, cols * MERGE))
        self._blocks = self._open(plan)
        self.spec = replace(self.spec, grid=(rows, cols), patch_grid=plan.grid, patch_order=plan.order)

    def _range(self, view: View) -> tuple[int, int]:
        """The least and the most pixels of a frame."""
        most = int(min(view.max_pixels or STREAM_TOKENS * self._unit**2, self._most))
        return (self._least if self._least <= most else self._unit**2), most

    def _fit(self, height: int, width: int, least: int, most: int) -> tuple[int, int]:
        """The size of all frames where the first one has this shape."""
        return fit(height, width, unit=self._unit, least=least, most=most)

    def _plan_for(self, grid: tuple[int, int]) -> Plan:
        """Lay the tower's rows out."""
        raise NotImplementedError

    def _open(self, plan: Plan) -> tuple[QwenBlock, ...]:
        """Open the tower's layers."""
        raise NotImplementedError

    @property
    def plan(self) -> Plan:
        """Where the tower's rows stand.

        Raises:
            ValueError: The view leaves the size open.
        """
        if self._plan is None:
            raise ValueError("view: the size of pictures is open; choose(view, frame) fixes it by the first frame")
        return self._plan

    def pixels(self, frames: Sequence[Frame]) -> Tensor:
        """Resize and normalise: (F, 3, height, width) in the model's type."""
        height, width = (side * self._patch for side in self.plan.grid)
        px = self._pictures.normalise(self._pictures.resize(frames, height, width).to(self.spec.device))
        return px.to(self.spec.dtype)

    def patches(self, px: Tensor) -> Tensor:
        """Embed pairs of frames: (F, 3, height, width) to (F', N, D); an odd frame is its own partner.

        One matrix product instead of transformers' convolution: the same sums in another order, three times as fast
        on a CPU.
        """
        rows = cut_patches(px, patch=self._patch, frames=self.spec.frames_per_step)
        embed = self._tower.patch_embed.proj
        return torch.nn.functional.linear(rows, embed.weight.flatten(1), embed.bias)

    def blocks(self) -> Sequence[VisionBlock]:
        """The tower's layers."""
        return self._blocks

    def _tokens(self, features: Tensor, frames: Sequence[Frame], *, deep: Tensor | None = None) -> VisualTokens:
        """Give (F'*N/4, D) merged rows, in raster order, their places and the times of their pairs."""
        each = self.spec.frames_per_step
        tokens = raster(features, self.spec.grid, frames[::each], deep=deep)
        last = [min(i + each, len(frames)) - 1 for i in range(0, len(frames), each)]
        return replace(tokens, ends_s=tuple(frames[i].time_s for i in last))
