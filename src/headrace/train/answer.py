"""The decoder over a packed batch: loss, and which questions it answers right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.train import facts, notes, summary
from headrace.train.pack import Packed


def run_rows(model: Any, batch: Packed, tapped: dict[int, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Run the decoder and predict the rows that have a target.

    Walks the decoder's own sub-modules, so that clip rows never meet question rows and the last layer computes the
    questions' rows alone; the result is that of the model's forward.

    Args:
        model: The LLaVA-OneVision model.
        batch: The packed clips.
        tapped: Its keys are numbers of layers; gets the (B, V, D) visual rows after so many of them.

    Returns:
        (R, vocabulary) float32 logits and (R,) int64 targets, in the order of ``batch.targets``' filled places.
    """
    decoder = model.model.language_model
    newline = model.model.image_newline.to(batch.visual.dtype)
    visual = torch.where(batch.newline[:, :, None], newline, batch.visual)
    words = decoder.embed_tokens(torch.cat([batch.prefix, batch.asked], dim=1))
    start, clip = batch.prefix.shape[1], batch.prefix.shape[1] + visual.shape[1]
    rows = torch.cat([words[:, :start], visual.to(words.dtype), words[:, start:]], dim=1)
    angles = decoder.rotary_emb(rows, batch.positions)
    mask = batch.mask()
    half = torch.bfloat16 if torch.is_autocast_enabled(rows.device.type) else rows.dtype
    bias = torch.zeros(mask.shape, dtype=half, device=rows.device).masked_fill_(~mask, -1e30)
    biases = bias[:, :, :clip, :clip], bias[:, :, clip:]
    for number, layer in enumerate(decoder.layers):
        last = number + 1 == len(decoder.layers)
        mixed = _attend(layer.self_attn, layer.input_layernorm(rows), angles, biases, last)
        rows = (rows[:, clip:] if last else rows) + mixed
        rows = rows + layer.mlp(layer.post_attention_layernorm(rows))
        if tapped is not None and number + 1 in tapped:
            tapped[number + 1] = rows[:, start:clip]
    filled = batch.targets >= 0
    return model.lm_head(decoder.norm(rows[filled])).float(), batch.targets[filled]


def _attend(
    part: Any, rows: Tensor, angles: tuple[Tensor, Tensor], biases: tuple[Tensor, Tensor], last: bool
) -> Tensor:
    """Attend within the clip's rows, and from the questions' rows to everything; ``last`` skips the former."""
    of_clip, of_questions = biases
    clip = of_clip.shape[-1]
    asking = rows[:, clip:] if last else rows
    q = _turn(part.q_proj(asking), part.head_dim, [angle[:, -asking.shape[1] :] for angle in angles])
    k = _turn(part.k_proj(rows), part.head_dim, angles)
    v = part.v_proj(rows).unflatten(2, (-1, part.head_dim)).transpose(1, 2)
    q = q * part.scaling
    found = _mix(q[:, :, -of_questions.shape[-2] :], k, v, of_questions)
    if not last:
        seen = _mix(q[:, :, :clip], k[:, :, :clip], v[:, :, :clip], of_clip)
        found = torch.cat([seen, found], dim=2)
    mixed: Tensor = part.o_proj(found.transpose(1, 2).flatten(2))
    return mixed


def _mix(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attend with plain products: (B, heads, T, width). On a CPU faster than the fused kernel's backward pass."""
    size, heads, num, width = q.shape
    groups = k.shape[1]
    with torch.autocast(q.device.type, enabled=False):
        q = q.reshape(size, groups, -1, width)
        scores = (q @ k.transpose(2, 3)).view(size, heads, num, -1) + bias
        found = scores.softmax(dim=3).view(size, groups, heads // groups * num, -1) @ v
    return found.view(size, heads, num, width)


def _turn(rows: Tensor, width: int, angles: Sequence[Tensor]) -> Tensor:
    """Split (B, T, heads * width) rows into heads and rotate them: (B, heads, T, width)."""
    heads = rows.unflatten(2, (-1, width)).transpose(1, 2)
    cos, sin = (angle[:, None].to(heads.dtype) for angle in angles)
    low, high = heads.chunk(2, dim=3)
    turned: Tensor = heads * cos + torch.cat([-high, low], dim=3) * sin
    return turned


def loss(model: Any, heads: Mapping[str, Any], batch: Packed) -> tuple[Tensor, dict[str, float]]:
    """Return the mean loss over answer tokens and throw-away heads, and the share of questions right, by kind.

    Args:
        model: The LLaVA-OneVision model.
        heads: ``notes``, ``facts`` and ``summary``, read where the batch says what they should read.
        batch: The packed clips.
    """
    tapped = dict.fromkeys((notes.TAP, *facts.TAPS, summary.TAP), batch.visual)
    with torch.autocast(batch.visual.device.type, torch.bfloat16):
        logits, targets = run_rows(model, batch, tapped)
    total = F.cross_entropy(logits, targets)
    figures = {"answers": float(total.detach())}
    if batch.notes is not None:
        told = (batch.notes >= 0).any(dim=2)
        extra, noted = heads["notes"].loss(tapped[notes.TAP][told], batch.notes[told])
        total = total + extra
        figures |= {f"note {name}": share for name, share in noted.items()}
    if batch.facts is not None:
        depths = [tapped[tap][batch.newline] for tap in facts.TAPS]
        extra, noted = heads["facts"].loss(depths, batch.facts)
        total = total + extra
        figures |= {f"fact {name}": share for name, share in noted.items()}
    if batch.summary is not None:
        extra, noted = heads["summary"].loss(tapped[summary.TAP][batch.newline], batch.summary)
        total = total + extra
        figures |= {f"newline {name}": share for name, share in noted.items()}
    tally: dict[str, list[bool]] = defaultdict(list)
    for kind, right in zip((ask.kind for asks in batch.asks for ask in asks), answered(logits, batch), strict=True):
        tally[kind].append(right)
    return total, figures | {kind: sum(found) / len(found) for kind, found in tally.items()}


def answered(logits: Tensor, batch: Packed) -> list[bool]:
    """Tell for every question, clip by clip, whether greedy decoding gives its answer and stops."""
    filled = batch.targets >= 0
    hits = torch.zeros_like(batch.targets, dtype=torch.bool)
    hits[filled] = logits.argmax(dim=1) == batch.targets[filled]
    wrong = filled & ~hits
    groups = batch.groups[:, -batch.targets.shape[1] :]
    return [
        not bool(wrong[b][groups[b] == number].any())
        for b, asks in enumerate(batch.asks)
        for number in range(1, len(asks) + 1)
    ]
