"""What a method may know of the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rope:
    """Rotary embedding of a decoder.

    Attributes:
        inv_freq: (D/2,) float32 on the CPU.
        scaling: Factor on cosine and sine.
        trained_length: Longest position the model was trained for; up to it angles use the library's fp32
            arithmetic, beyond it fp64.
        kind: ``plain``, ``chunked`` or ``interleaved`` (how M-RoPE spreads P axes over the channels).
        section: Channels per axis for M-RoPE, else None.
    """

    inv_freq: Tensor
    scaling: float = 1.0
    trained_length: int = 32768
    kind: str = "plain"
    section: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class View:
    """How one stream looks through a model: chosen when it is opened, saved and forked with it.

    Attributes:
        max_pixels: Most pixels of a frame as the tower sees it; None for what the family takes a stream to be worth.
        size: (height, width) in pixels of every frame as the tower sees it. None before the first frame, and where the
            tower has one size only.
        prompt: ``trained`` writes prompts and positions as the model's authors did, ``library`` as transformers does,
            where the two differ.
    """

    max_pixels: int | None = None
    size: tuple[int, int] | None = None
    prompt: str = "trained"

    def fork(self) -> View:
        """Return itself."""
        return self


@dataclass(frozen=True, eq=False)
class ModelSpec:
    """What a method may know of the model.

    Attributes:
        family: transformers' model type.
        name: Hub name or folder the weights came from.
        layers: Decoder layers.
        heads: Query heads of a decoder layer.
        kv_heads: Key/value heads.
        head_dim: Width of a head.
        dim: Width of the decoder.
        grid: (rows, columns) of visual tokens per temporal step. Where a stream's first frame decides, one row of as
            many tokens as there may be until then.
        patch_grid: (rows, columns) of the tower's own rows per temporal step; (0, 0) where the first frame decides.
        vision_layers: Layers of the vision tower.
        vision_dim: Width of the tower.
        taps: Tower layers whose output joins early decoder layers (deepstack), ascending.
        patch_order: (N,) int64 place on ``patch_grid`` of every tower row, None for raster order.
        frames_per_step: Frames the tower takes at once (2 where patches span two frames).
        rope: Rotary embedding.
        scale: Factor on attention logits.
        windows: Sliding window per layer in rows, None for full attention.
        positions: Position policy the checkpoint was trained with once tokens are dropped: ``repack`` or ``original``.
        dtype: Type of weights, keys and values.
        device: Where they live.
        stop_ids: Vocabulary ids that end an answer.
        repetition_penalty: What the checkpoint asks for; see ``Query``.
        position_rows: P, 1 or 3.
        around_rows: Most rows a step has around its visual tokens: newlines, delimiters, timestamps, and the text that
            goes on with a conversation where an answer came before.
        prefix_rows: Rows before the first frame, the sinks of memories that keep them.
        fingerprint: Hash of weights and settings; a saved stream goes on only with the same model.
        former_fingerprint: As folders of formats 1 and 2 have it, of fewer of the weights.
    """

    family: str
    name: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    dim: int
    grid: tuple[int, int]
    vision_layers: int
    vision_dim: int
    frames_per_step: int
    rope: Rope
    scale: float
    windows: tuple[int | None, ...]
    positions: str
    dtype: torch.dtype
    device: torch.device
    stop_ids: tuple[int, ...]
    patch_grid: tuple[int, int] = (0, 0)
    patch_order: Tensor | None = None
    taps: tuple[int, ...] = ()
    position_rows: int = 1
    around_rows: int = 1
    prefix_rows: int = 0
    fingerprint: str = ""
    former_fingerprint: str = ""
    repetition_penalty: float = 1.0

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's keys and values over all layers."""
        return self.layers * self.kv_heads * self.head_dim * 2 * self.dtype.itemsize
