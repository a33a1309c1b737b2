"""The least code that runs a model over frames: transformers' modules, one preallocated cache, nothing else.

This is what the engine is measured against: no streams, no metadata, no memory policy, no forks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FAMILY = "llava_onevision"  # what this is written for


class BareModel:
    """Tower and decoder called straight, with room for a fixed number of rows.

    Args:
        model: A plain LLaVA-OneVision.
        room: Rows the cache can hold.
    """

    def __init__(self, model: Any, room: int) -> None:
        self._inner = model.model
        text, weight = model.config.text_config, model.lm_head.weight
        attn = self._inner.language_model.layers[0].self_attn
        self._heads, self._kv_heads = text.num_attention_heads, text.num_key_value_heads
        self._head_dim, self._scale = attn.head_dim, attn.scaling
        shape = (text.num_hidden_layers, 2, self._kv_heads, room, self._head_dim)
        self._cache = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self._rows = 0

    def reset(self) -> None:
        """Forget all rows."""
        self._rows = 0

    def see(self, px: Tensor) -> Tensor:
        """Run tower, projector and pooling: (1, 3, S, S) to (N, D), without the newline."""
        features = self._inner.get_video_features(px[None]).pooler_output
        return features.flatten(0, 1)[:-1]  # type: ignore[no-any-return]

    def prefill(self, h: Tensor, *, output: bool = True) -> Tensor:
        """Run the decoder over (T, D) new rows; without ``output`` the last layer stops at its keys and values."""
        decoder, start, num = self._inner.language_model, self._rows, h.shape[0]
        places = torch.arange(start, start + num, device=h.device)[None]
        cos, sin = decoder.rotary_emb(h[None], places)
        mask = torch.ones(num, start + num, dtype=torch.bool, device=h.device).tril(start)
        for index, layer in enumerate(decoder.layers):
            stops = not output and index == len(decoder.layers) - 1
            h = self._layer(layer, self._cache[index], h, (cos[0], sin[0]), mask=mask, stops=stops)
        self._rows += num
        return decoder.norm(h) if output else h

    def _layer(
        self, layer: Any, cache: Tensor, h: Tensor, angles: tuple[Tensor, Tensor], *, mask: Tensor, stops: bool
    ) -> Tensor:
        attn, x, num = layer.self_attn, layer.input_layernorm(h), h.shape[0]
        stop = self._rows + num
        cache[0, :, self._rows : stop] = _turn(attn.k_proj(x).view(num, self._kv_heads, -1).transpose(0, 1), *angles)
        cache[1, :, self._rows : stop] = attn.v_proj(x).view(num, self._kv_heads, -1).transpose(0, 1)
        if stops:
            return h
        q = _turn(attn.q_proj(x).view(num, self._heads, -1).transpose(0, 1), *angles)
        o = torch.nn.functional.scaled_dot_product_attention(
            q[None], cache[0, None, :, :stop], cache[1, None, :, :stop], mask, scale=self._scale, enable_gqa=True
        )
        h = h + attn.o_proj(o[0].transpose(0, 1).reshape(num, -1))
        return h + layer.mlp(layer.post_attention_layernorm(h))  # type: ignore[no-any-return]


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin
