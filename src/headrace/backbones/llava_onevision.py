"""LLaVA-OneVision: a SigLIP tower, a two-layer projector with 2x2 pooling, and a Qwen2 decoder.

Model: arXiv 2408.03326 (Apache-2.0 code). A frame is resized to the tower's square, encoded on its own, projected, and
pooled bilinearly to half the grid. A clip's tokens follow each other without separators; one learned newline row closes
the clip. A checkpoint may say in config.json that every frame is its own clip (``headrace.clip = "frame"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from headrace.backbones.adapter import Adapter, raster, visual_rows
from headrace.backbones.decoder import DECODERS
from headrace.backbones.looking import check_view
from headrace.backbones.pictures import Pictures
from headrace.backbones.tower import TOWERS, SiglipBlock, embed_patches
from headrace.protocols import VisionBlock
from headrace.types import Cursor, Frame, Kind, Segment, View, VisualTokens, join

DEFAULTS: dict[str, Any] = {
    "size": {"height": 384, "width": 384},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 1 / 255,
}


class LlavaOnevision(Adapter):
    """One set of LLaVA-OneVision weights, shared by all streams.

    Args:
        model: The loaded transformers model.
        tokenizer: Its tokenizer, with chat template.
        pictures: Settings of its picture processor.
        name: What to call it.

    Raises:
        ValueError: The configuration asks for something that is not supported.
    """

    model_class: ClassVar[Any] = LlavaOnevisionForConditionalGeneration
    defaults: ClassVar[dict[str, Any]] = DEFAULTS
    parts: ClassVar[dict[str, tuple[str, ...]]] = {"text_config": DECODERS, "vision_config": TOWERS}

    def __init__(self, model: Any, tokenizer: Any, pictures: Pictures, *, name: str) -> None:
        config, vision = model.config, model.config.vision_config
        video = tokenizer.convert_ids_to_tokens(config.video_token_id)
        super().__init__(model, model.model.language_model, tokenizer, video=video)
        self._tower, self._pictures = model.model.vision_tower, pictures
        self._blocks = _blocks(config, self._tower)
        self._side, self._size = vision.image_size // vision.patch_size, vision.image_size
        size = pictures.settings["size"]
        if not isinstance(size, dict) or {size.get("height"), size.get("width")} != {self._size}:
            raise ValueError(f"size: {size} in the processor file is not the tower's {self._size}")
        crop = pictures.settings.get("crop_size")
        if pictures.settings.get("do_center_crop") and crop not in (size, self._size):
            raise ValueError(f"do_center_crop: to {crop} is not supported; the tower takes frames whole")
        extra = getattr(config, "headrace", None) or {}
        self._clip_is_frame = extra.get("clip", "video") == "frame"
        grid = -(-self._side // 2)
        self.spec = self._describe(
            name,
            grid=(grid, grid),
            patch_grid=(self._side, self._side),
            vision_layers=len(self._blocks),
            vision_dim=vision.hidden_size,
            positions=extra.get("positions", "repack"),
            around_rows=self._around() + int(self._clip_is_frame),
        )

    @staticmethod
    def _sized(config: Any) -> dict[str, Any]:
        side = config.vision_config.image_size
        return {"size": {"height": side, "width": side}}

    def at(self, view: View) -> LlavaOnevision:
        """Look through another view, which changes nothing: there is one size and one way to write."""
        check_view(view, one_size=(self._size, self._size))
        return self

    def pixels(self, frames: Sequence[Frame]) -> Tensor:
        """Resize and normalise: (F, 3, S, S) in the model's type."""
        px = self._pictures.normalise(self._pictures.resize(frames, self._size, self._size).to(self.spec.device))
        return px.to(self.spec.dtype)

    def patches(self, px: Tensor) -> Tensor:
        """Embed patches and their places: (F, 3, S, S) to (F, g*g, Cv)."""
        return embed_patches(self._tower.embeddings, px)

    def blocks(self) -> Sequence[VisionBlock]:
        """The tower's layers up to ``vision_feature_layer``."""
        return self._blocks

    def project(self, h: Tensor, frames: Sequence[Frame], taps: Sequence[Tensor] = ()) -> VisualTokens:
        """Project (F, g*g, Cv) and pool each frame bilinearly to half the grid."""
        x = self._model.model.multi_modal_projector(h)
        x = x.view(len(frames), self._side, self._side, -1).permute(0, 3, 1, 2)  # channels last: the fast kernel
        x = torch.nn.functional.interpolate(x, size=self.spec.grid, mode="bilinear")
        return raster(x.permute(0, 2, 3, 1).flatten(0, 2), self.spec.grid, frames)

    def wrap(self, tokens: VisualTokens, cursor: Cursor) -> Segment:
        """Visual rows at their dense places, each frame closed by a newline where every frame is a clip."""
        per_frame = tokens.grid[0] * tokens.grid[1]
        step = per_frame + int(self._clip_is_frame)
        places = tokens.slot + tokens.frame * (step - per_frame)
        seg = visual_rows(tokens, places[None], advance=len(tokens.frames) * step, turn=cursor.turn)
        if self._clip_is_frame:
            seg = self._close_frames(seg, tokens, step)
        return join([*self.reopen(cursor), seg])

    def _close_frames(self, seg: Segment, tokens: VisualTokens, step: int) -> Segment:
        """Add a newline row behind every frame, also behind one that lost all its tokens."""
        num = len(tokens.frames)
        ends = torch.arange(num) * step + step - 1
        order = torch.argsort(torch.cat((seg.ids[0], ends)), stable=True)

        def both(x: Tensor, y: Tensor) -> Tensor:
            return torch.cat((x, y))[order.to(x.device)]

        newline = self._model.model.image_newline.to(seg.embeds.dtype)
        return replace(
            seg,
            embeds=both(seg.embeds, newline.expand(num, -1)),
            ids=both(seg.ids[0], ends)[None],
            kind=both(seg.kind, torch.full((num,), int(Kind.NEWLINE), dtype=torch.int8)),
            frame=both(seg.frame, torch.tensor(tokens.frames, dtype=torch.int64)),
            time_s=both(seg.time_s, torch.tensor(tokens.times_s, dtype=torch.float64)),
            tokens=both(seg.tokens, torch.full((num,), -1)),
        )

    def close_clip(self, cursor: Cursor) -> Segment | None:
        """The newline row that ends a clip; None where each frame has its own."""
        if self._clip_is_frame or not cursor.clip_open:
            return None
        seg = self.embed([0], turn=cursor.turn)
        newline = self._model.model.image_newline.to(self.spec.dtype)[None]
        kind = torch.full((1,), int(Kind.NEWLINE), dtype=torch.int8)
        return replace(seg, embeds=newline, kind=kind, tokens=torch.tensor([-1], dtype=torch.int64))


def _blocks(config: Any, tower: Any) -> tuple[VisionBlock, ...]:
    """Open the layers whose last output is the visual feature."""
    layer, layers = config.vision_feature_layer, list(tower.encoder.layers)
    fits = isinstance(layer, int) and -len(layers) <= layer < 0
    if not fits or config.vision_feature_select_strategy != "full":
        raise ValueError(
            f"vision_feature_layer: {layer!r} with strategy {config.vision_feature_select_strategy!r} is not supported;"
            " released checkpoints use -1 or -2 with 'full'"
        )
    return tuple(SiglipBlock(x) for x in layers[: len(layers) + 1 + layer])
