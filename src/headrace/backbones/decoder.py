"""The decoder of the Qwen and Llama families, walked layer by layer against a Context.

The public sub-modules of the loaded model do the arithmetic; positions, masks and keys belong to the Context. Nothing
is set on the model, so any number of streams and threads may walk it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headrace.ops.attention import causal_attention
from headrace.ops.rope import rotate
from headrace.protocols import Context, LayerPruner, Work
from headrace.types import Early, Kind, ModelSpec, Rope, Segment

# Model types whose layers are what ``_between`` does and no more; tests compare each with transformers. Others scale or
# normalise on the way (gemma2, granite, olmo2), leave rotations out (smollm3), or have other parts (phi3).
DECODERS = ("gemma", "llama", "mistral", "qwen2", "qwen3", "starcoder2")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")

Repeat = Callable[..., Sequence[Tensor]]  # as ``Graphs.run``


def as_it_stands(
    key: Hashable, work: Work, inputs: Sequence[Tensor], *, part: Hashable | None = None
) -> Sequence[Tensor]:
    """Do work without recording it."""
    return work(*inputs)


def extend(
    model: Any,
    spec: ModelSpec,
    segment: Segment,
    context: Context,
    *,
    pruner: LayerPruner | None = None,
    outputs: int | None = None,
    watch: bool = False,
    repeat: Repeat = as_it_stands,
) -> Tensor:
    """Run new rows through a decoder; see ``protocols.Backbone.extend``.

    What lies between two attentions is the same for all segments of a length, so ``repeat`` may replay it; attention
    itself depends on how long the past is.
    """
    context.begin(segment)
    h, last = segment.embeds, spec.layers - 1
    rows: Tensor | None = None
    visual = segment.kind == Kind.VISUAL
    shown, angles = torch.nonzero(visual).squeeze(1), context.angles()

    def go(h: Tensor, attended: Sequence[Tensor], done: int | None, todo: int | None) -> tuple[Tensor, Any, Any]:
        """Finish a layer and begin another: rows, its queries with keys and values, and what is early of those."""
        num = h.shape[0] if done is None else attended[0].shape[1]
        num_q = num
        if todo == last and outputs is not None and not context.reads_queries:
            num_q = min(outputs, num)
        turn = angles if todo is not None and rows is None and num_q == num and num else None
        work = partial(_between, model, spec, done, todo, num_q)
        inputs = (h, *attended, *(turn or ()))
        part = (done, todo, num_q, turn is not None)
        if rows is None:
            h, *found = repeat(("decoder", len(segment)), work, inputs, part=part)
        else:  # how many rows a pruner leaves differs from step to step
            h, *found = work(*inputs)
        return h, found[:3], Early(*found[3:]) if len(found) > 3 else None

    h, qkv, early = go(h, (), None, 0)
    for index in range(spec.layers):
        o = context.attend(index, rows, *qkv, watch=watch, early=early)
        deep = segment.deep if segment.deep is not None and index < segment.deep.shape[0] else None
        if index < last and deep is None and pruner is None:
            h, qkv, early = go(h, (o,), index, index + 1)
            continue
        h = go(h, (o,), index, None)[0] if o.shape[1] else h[:0]
        if deep is not None and len(h) and len(shown):
            left = torch.arange(len(segment)) if rows is None else rows.cpu()
            h = _join_deep(h, deep[index], shown, left[-len(h) :])
        if pruner is not None and index < last and bool(visual.any()):
            kept = pruner.keep(index, h, visual)
            if kept is not None:
                h, visual = h[kept], visual[kept.cpu()]
                rows = kept if rows is None else rows[kept]
        if index < last:
            h, qkv, early = go(h, (), None, index + 1)
    if outputs is not None and outputs < h.shape[0]:
        h = h[h.shape[0] - outputs :]
    return model.norm(h)  # type: ignore[no-any-return]


def _between(
    model: Any, spec: ModelSpec, done: int | None, todo: int | None, num_q: int, h: Tensor, *others: Tensor
) -> list[Tensor]:
    """What lies between two attentions: the end of one layer and the beginning of the next, either may be missing.

    Args:
        model: The decoder.
        spec: The model.
        done: Layer that has attended.
        todo: Layer that attends next.
        num_q: The last rows of ``todo`` are queries.
        h: (T, D) rows.
        others: (H, U, d) what the last U of them got in ``done``; (T, d) cos and sin by which the rows of ``todo`` are
            rotated before they attend to each other, where that is wanted here.

    Returns:
        (T or U, D) rows; of ``todo`` (H, num_q, d) queries, (G, T, d) keys and values, and the fields of ``Early``.
    """
    layers, rotation = model.layers, others if done is None else others[1:]
    if done is not None:
        layer, o = layers[done], others[0]
        h = h[h.shape[0] - o.shape[1] :]
        if len(h):
            h = h + layer.self_attn.o_proj(o.transpose(0, 1).reshape(len(h), -1))
            h = h + layer.mlp(layer.post_attention_layernorm(h))
    if todo is None:
        return [h]
    attn, x = layers[todo].self_attn, layers[todo].input_layernorm(h)
    q = attn.q_proj(x[x.shape[0] - num_q :]).view(num_q, spec.heads, spec.head_dim)
    k = attn.k_proj(x).view(-1, spec.kv_heads, spec.head_dim)
    v = attn.v_proj(x).view(-1, spec.kv_heads, spec.head_dim)
    if hasattr(attn, "q_norm"):
        q, k = attn.q_norm(q), attn.k_norm(k)
    q, k, v = (y.transpose(0, 1) for y in (q, k, v))
    if not rotation:
        return [h, q, k, v]
    turned, rotated = rotate(q, *rotation), rotate(k, *rotation)
    return [h, q, k, v, turned, rotated, *causal_attention(turned, rotated, v, spec.scale)]


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
    """Read the sliding window of every layer, None for full attention.

    A configuration that names no kinds (Mistral's) has its window in all layers.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return tuple(int(window) if window and kind == "sliding_attention" else None for kind in kinds)
