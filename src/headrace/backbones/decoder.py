"""The decoder of the Qwen and Llama families, walked layer by layer against a Context.

The public sub-modules of the loaded model do the arithmetic; positions, masks and keys belong to the Context. Nothing
is set on the model, so any number of streams and threads may walk it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headrace.protocols import Context, LayerPruner
from headrace.types import Kind, ModelSpec, Rope, Segment

ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def extend(
    model: Any,
    spec: ModelSpec,
    segment: Segment,
    context: Context,
    *,
    pruner: LayerPruner | None = None,
    outputs: int | None = None,
    watch: bool = False,
) -> Tensor:
    """Run new rows through a decoder; see ``protocols.Backbone.extend``."""
    context.begin(segment)
    h, rows = segment.embeds, None
    visual = segment.kind == Kind.VISUAL
    shown = torch.nonzero(visual).squeeze(1)
    for index, layer in enumerate(model.layers):
        num_q = h.shape[0]
        if index == spec.layers - 1 and outputs is not None and not context.reads_queries:
            num_q = min(outputs, num_q)
        h = _layer(layer, h, rows, context, index=index, spec=spec, num_q=num_q, watch=watch)
        if segment.deep is not None and index < segment.deep.shape[0] and num_q:
            left = torch.arange(len(segment)) if rows is None else rows.cpu()
            h = _join_deep(h, segment.deep[index], shown, left[-num_q:])
        if pruner is not None and index < spec.layers - 1 and bool(visual.any()):
            kept = pruner.keep(index, h, visual)
            if kept is not None:
                h, visual = h[kept], visual[kept.cpu()]
                rows = kept if rows is None else rows[kept]
    if outputs is not None and outputs < h.shape[0]:
        h = h[h.shape[0] - outputs :]
    return model.norm(h)  # type: ignore[no-any-return]


def _layer(
    layer: Any,
    h: Tensor,
    rows: Tensor | None,
    context: Context,
    *,
    index: int,
    spec: ModelSpec,
    num_q: int,
    watch: bool,
) -> Tensor:
    """Run one layer over (T, D) rows; the last ``num_q`` of them come out."""
    attn, x = layer.self_attn, layer.input_layernorm(h)
    last = slice(h.shape[0] - num_q, None)
    q = attn.q_proj(x[last]).view(num_q, spec.heads, spec.head_dim)
    k = attn.k_proj(x).view(-1, spec.kv_heads, spec.head_dim)
    v = attn.v_proj(x).view(-1, spec.kv_heads, spec.head_dim)
    if hasattr(attn, "q_norm"):
        q, k = attn.q_norm(q), attn.k_norm(k)
    o = context.attend(index, rows, *(y.transpose(0, 1) for y in (q, k, v)), watch=watch)
    h = h[last]
    if not num_q:
        return h
    h = h + attn.o_proj(o.transpose(0, 1).reshape(num_q, -1))
    return h + layer.mlp(layer.post_attention_layernorm(h))  # type: ignore[no-any-return]


def _join_deep(h: Tensor, feature: Tensor, shown: Tensor, rows: Tensor) -> Tensor:
    """Add a deepstack feature to the visual rows that are left.

    Args:
        h: (T', D) the rows that are left.
        feature: (V, D), one per visual row of the segment.
        shown: (V,) int64 ascending, which rows of the segment those are.
        rows: (T',) int64, which rows of the segment are left.
    """
    at = torch.searchsorted(shown, rows).clamp(max=shown.shape[0] - 1)
    hit = shown[at] == rows
    out = h.clone()
    out[hit] += feature[at[hit]].to(h.dtype)
    return out


def read_rope(model: Any, config: Any, *, kind: str = "plain", section: tuple[int, ...] | None = None) -> Rope:
    """Read a decoder's rotary embedding.

    Raises:
        ValueError: Its frequencies change with the length of the sequence.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    name = parameters.get("rope_type", "default")
    if name not in ROPE_TYPES:
        raise ValueError(f"rope_type: {name!r} changes with the length of the sequence; supported: {ROPE_TYPES}")
    return Rope(
        inv_freq=model.rotary_emb.inv_freq.detach().float().cpu().clone(),
        scaling=float(model.rotary_emb.attention_scaling),
        trained_length=int(config.max_position_embeddings),
        kind=kind,
        section=section,
    )


def read_windows(config: Any) -> tuple[int | None, ...]:
    """Read the sliding window of every layer, None for full attention."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return tuple(int(config.sliding_window) if kind == "sliding_attention" else None for kind in kinds)
