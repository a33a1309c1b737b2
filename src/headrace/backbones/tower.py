"""Vision towers walked layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headrace.protocols import VisionBlock

TOWERS = ("siglip_vision_model",)  # model types that ``SiglipBlock`` opens


class SiglipBlock:
    """A SigLIP layer of transformers, SmolVLM's too, opened (pre-norm, full attention within a frame)."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._heads = layer.self_attn.num_heads

    def norm1(self, h: Tensor) -> Tensor:
        """Normalise (F, N, D) before the attention."""
        return self._layer.layer_norm1(h)  # type: ignore[no-any-return]

    def keys(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Project (F, U, D) to keys."""
        return self._layer.self_attn.k_proj(x)  # type: ignore[no-any-return]

    def queries_values(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Project (F, U, D) to queries and values."""
        return self._layer.self_attn.q_proj(x), self._layer.self_attn.v_proj(x)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor | None = None) -> Tensor:
        """Attend (F, U, D) queries to (F, N, D) keys and values of the same frame."""
        q, k, v = (x.unflatten(-1, (self._heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=self._layer.self_attn.scale)
        return out.transpose(1, 2).flatten(2)

    def out(self, o: Tensor) -> Tensor:
        """Project the attention's output."""
        return self._layer.self_attn.out_proj(o)  # type: ignore[no-any-return]

    def norm2(self, h: Tensor) -> Tensor:
        """Normalise before the MLP."""
        return self._layer.layer_norm2(h)  # type: ignore[no-any-return]

    def mlp(self, x: Tensor) -> Tensor:
        """Apply the MLP."""
        return self._layer.mlp(x)  # type: ignore[no-any-return]


def embed_patches(embeddings: Any, px: Tensor) -> Tensor:
    """Embed the patches of SigLIP's native square and their places: (F, 3, S, S) to (F, g*g, D)."""
    patches = embeddings.patch_embedding(px).flatten(2).transpose(1, 2)
    return patches + embeddings.position_embedding.weight  # type: ignore[no-any-return]


def run_tower(blocks: Sequence[VisionBlock], h: Tensor, taps: Sequence[int] = ()) -> list[Tensor]:
    """Run every layer over all rows.

    Args:
        blocks: The layers.
        h: (F, N, D) embedded patches.
        taps: Layers whose output is wanted, ascending.

    Returns:
        The last layer's (F, N, D) output, then those of ``taps``.
    """
    tapped = []
    for index, block in enumerate(blocks):
        x = block.norm1(h)
        q, v = block.queries_values(x)
        h = h + block.out(block.attend(q, block.keys(x), v))
        h = h + block.mlp(block.norm2(h))
        if index in taps:
            tapped.append(h)
    return [h, *tapped]


def dense_pass(backbone: Any, px: Tensor) -> Sequence[Tensor]:
    """Run a backbone's dense tower over pixels; see ``run_tower``."""
    work = partial(run_tower, backbone.blocks(), taps=backbone.spec.taps)
    found: Sequence[Tensor] = backbone.repeat("tower", work, (backbone.patches(px),))
    return found
