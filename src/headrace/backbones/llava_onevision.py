"""LLaVA-OneVision: a SigLIP tower, a two-layer projector with 2x2 pooling, and a Qwen2 decoder.

Model: arXiv 2408.03326 (Apache-2.0 code). A frame is resized to the tower's square, encoded on its own, projected, and
pooled bilinearly to half the grid. A clip's tokens follow each other without separators; one learned newline row closes
the clip. A checkpoint may say in config.json that every frame is its own clip (``headrace.clip = "frame"``).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from headrace.backbones.chat import read_chat
from headrace.backbones.decoder import extend, read_rope, read_windows
from headrace.backbones.loading import Checkpoint, fingerprint
from headrace.backbones.pictures import Pictures, read_pictures
from headrace.backbones.tower import SiglipBlock, run_tower
from headrace.protocols import Context, LayerPruner, VisionBlock
from headrace.types import Cursor, Frame, Kind, ModelSpec, Segment, VisualTokens, join

MODEL_TYPE = "llava_onevision"

DEFAULTS = {
    "size": {"height": 384, "width": 384},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 1 / 255,
}


class LlavaOnevision:
    """One set of LLaVA-OneVision weights, shared by all streams.

    Args:
        model: The loaded transformers model.
        tokenizer: Its tokenizer, with chat template.
        pictures: Settings of its picture processor.
        name: What to call it.

    Raises:
        ModelError: The configuration asks for something that is not supported.
    """

    def __init__(self, model: Any, tokenizer: Any, pictures: Pictures, *, name: str) -> None:
        config = model.config
        text, vision = config.text_config, config.vision_config
        self._model = model
        self._tower = model.model.vision_tower
        self._decoder = model.model.language_model
        self.tokenizer = tokenizer
        self._tokenizing = threading.Lock()  # fast tokenizers refuse to be called twice at once
        known, room = len(tokenizer), self._decoder.embed_tokens.num_embeddings
        if known > room:
            raise ValueError(f"tokenizer: knows {known} tokens, the model only {room}; they do not belong together")
        self._chat = read_chat(self.tokenizer, video=self.tokenizer.convert_ids_to_tokens(config.video_token_id))
        self._pictures = pictures
        self._blocks = _blocks(config, self._tower)
        self._side = vision.image_size // vision.patch_size
        size = self._pictures.settings["size"]
        if not isinstance(size, dict) or {size.get("height"), size.get("width")} != {vision.image_size}:
            raise ValueError(f"size: {size} in the processor file is not the tower's {vision.image_size}")
        self._size = vision.image_size
        extra = getattr(config, "headrace", None) or {}
        self._clip_is_frame = extra.get("clip", "video") == "frame"
        grid = -(-self._side // 2)
        generation = getattr(model, "generation_config", None)
        prefix = len(self.tokenizer(self._chat.prefix, add_special_tokens=False).input_ids)
        self.spec = ModelSpec(
            family=MODEL_TYPE,
            name=name,
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=self._decoder.layers[0].self_attn.head_dim,
            dim=text.hidden_size,
            grid=(grid, grid),
            vision_layers=len(self._blocks),
            vision_dim=vision.hidden_size,
            frames_per_step=1,
            rope=read_rope(self._decoder, text),
            scale=self._decoder.layers[0].self_attn.scaling,
            windows=read_windows(text),
            positions=extra.get("positions", "repack"),
            dtype=self._decoder.embed_tokens.weight.dtype,
            device=self._decoder.embed_tokens.weight.device,
            stop_ids=_stop_ids(generation, text, self.tokenizer),
            prefix_rows=prefix,
            fingerprint=fingerprint(model),
        )

    @staticmethod
    def load(checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> LlavaOnevision:
        """Load a checkpoint; see ``backbones.load``."""
        tokenizer, pictures = checkpoint.tokenizer(), read_pictures(checkpoint.read, DEFAULTS)
        model = checkpoint.weights(LlavaOnevisionForConditionalGeneration, dtype=dtype, device=device)
        return LlavaOnevision(model, tokenizer, pictures, name=checkpoint.name)

    @staticmethod
    def adopt(model: Any, tokenizer: Any, *, name: str) -> LlavaOnevision:
        """Serve a model that is loaded already, with the family's picture settings at the tower's size."""
        side = model.config.vision_config.image_size
        pictures = read_pictures(lambda file: None, {**DEFAULTS, "size": {"height": side, "width": side}})
        return LlavaOnevision(model, tokenizer, pictures, name=name)

    def pixels(self, frames: Sequence[Frame]) -> Tensor:
        """Resize and normalise: (F, 3, S, S) in the model's type."""
        px = self._pictures.normalise(self._pictures.resize(frames, self._size, self._size))
        return px.to(device=self.spec.device, dtype=self.spec.dtype)

    def patches(self, px: Tensor) -> Tensor:
        """Embed patches and their places: (F, 3, S, S) to (F, g*g, Cv)."""
        embeddings = self._tower.embeddings
        patches = embeddings.patch_embedding(px).flatten(2).transpose(1, 2)
        return patches + embeddings.position_embedding.weight  # type: ignore[no-any-return]

    def blocks(self) -> Sequence[VisionBlock]:
        """The tower's layers up to ``vision_feature_layer``."""
        return self._blocks

    def project(self, h: Tensor, frames: Sequence[Frame]) -> VisualTokens:
        """Project (F, g*g, Cv) and pool each frame bilinearly to half the grid."""
        x = self._model.model.multi_modal_projector(h)
        x = x.view(len(frames), self._side, self._side, -1).permute(0, 3, 1, 2).contiguous()
        rows, cols = self.spec.grid
        x = torch.nn.functional.interpolate(x, size=(rows, cols), mode="bilinear")
        x = x.permute(0, 2, 3, 1).reshape(len(frames) * rows * cols, -1)
        frame, row, col = (
            axis.flatten()
            for axis in torch.meshgrid(*(torch.arange(n) for n in (len(frames), rows, cols)), indexing="ij")
        )
        return VisualTokens(
            features=x,
            frame=frame,
            row=row,
            col=col,
            grid=self.spec.grid,
            frames=tuple(f.index for f in frames),
            times_s=tuple(f.time_s for f in frames),
        )

    def vision(self, px: Tensor, frames: Sequence[Frame]) -> VisualTokens:
        """Run the dense tower."""
        return self.project(run_tower(self._blocks, self.patches(px)), frames)

    def open(self) -> Segment:
        """The template's text before the first frame."""
        return self._text(self._chat.prefix, Kind.PREFIX, turn=0)

    def wrap(self, tokens: VisualTokens, cursor: Cursor) -> Segment:
        """Visual rows at their dense places, each frame closed by a newline where every frame is a clip."""
        per_frame = tokens.grid[0] * tokens.grid[1]
        step = per_frame + int(self._clip_is_frame)
        places = tokens.slot + tokens.frame * (step - per_frame)
        seg = Segment(
            embeds=tokens.features,
            ids=places[None],
            advance=len(tokens.frames) * step,
            kind=torch.full((len(tokens),), int(Kind.VISUAL), dtype=torch.int8),
            frame=torch.tensor(tokens.frames)[tokens.frame],
            time_s=torch.tensor(tokens.times_s, dtype=torch.float64)[tokens.frame],
            tokens=torch.full((len(tokens),), -1),
            turn=cursor.turn,
            deep=tokens.deep,
        )
        if self._clip_is_frame:
            seg = self._close_frames(seg, tokens, step)
        if cursor.answered:
            seg = join([self._text(self._chat.reopen, Kind.MARKER, turn=cursor.turn), seg])
        return seg

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
            frame=both(seg.frame, torch.tensor(tokens.frames)),
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
        return replace(seg, embeds=newline, kind=kind, tokens=torch.tensor([-1]))

    def turn(self, text: str, cursor: Cursor) -> Segment:
        """A question up to where the answer starts."""
        whole = self._chat.question(text, answered=cursor.answered)
        return self._text(whole, Kind.TEXT, turn=cursor.turn)

    def embed(self, token_ids: Sequence[int], *, turn: int) -> Segment:
        """Rows of vocabulary entries, as an answer's."""
        ids = torch.tensor(list(token_ids), dtype=torch.int64)
        return Segment(
            embeds=self._decoder.embed_tokens(ids.to(self.spec.device)),
            ids=torch.arange(len(ids))[None],
            advance=len(ids),
            kind=torch.full((len(ids),), int(Kind.ANSWER), dtype=torch.int8),
            frame=torch.full((len(ids),), -1),
            time_s=torch.full((len(ids),), -1.0, dtype=torch.float64),
            tokens=ids,
            turn=turn,
        )

    def _text(self, text: str, kind: Kind, *, turn: int) -> Segment:
        with self._tokenizing:
            ids = self.tokenizer(text, add_special_tokens=False).input_ids
        seg = self.embed(ids, turn=turn)
        return replace(seg, kind=torch.full_like(seg.kind, int(kind)))

    def place(self, cursor: Cursor, segment: Segment) -> tuple[Segment, Cursor]:
        """Count positions over the whole stream, dropped tokens included."""
        placed = replace(segment, ids=segment.ids + cursor.next)
        return placed, replace(cursor, next=cursor.next + segment.advance)

    def extend(
        self,
        segment: Segment,
        context: Context,
        *,
        pruner: LayerPruner | None = None,
        outputs: int | None = None,
        watch: bool = False,
    ) -> Tensor:
        """Run the Qwen2 decoder; see ``protocols.Backbone``."""
        return extend(self._decoder, self.spec, segment, context, pruner=pruner, outputs=outputs, watch=watch)

    def logits(self, h: Tensor) -> Tensor:
        """Score the vocabulary."""
        return self._model.lm_head(h)  # type: ignore[no-any-return]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turn ids into text."""
        with self._tokenizing:
            return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))


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


def _stop_ids(generation: Any, text: Any, tokenizer: Any) -> tuple[int, ...]:
    """Collect every id that ends an answer."""
    found: set[int] = set()
    for ids in (getattr(generation, "eos_token_id", None), text.eos_token_id, tokenizer.eos_token_id):
        found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return tuple(sorted(found))
