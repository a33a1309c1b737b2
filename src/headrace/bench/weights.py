"""What int8 weights cost: the same questions over the same pixels, and the logits of the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from headrace.cache import CacheContext
from headrace.types import Cursor, Frame, join


def weight_bytes(backbone: Any) -> int:
    """Bytes of a model's weights, tied ones once."""
    return sum(weight.numel() * weight.itemsize for weight in backbone.parameters())


@torch.no_grad()
def logits_error(one: Any, other: Any, frames: Sequence[Frame], question: str) -> dict[str, float]:
    """Compare the logits of all rows of a prompt.

    Args:
        one: A backbone with full weights.
        other: The same with other weights.
        frames: What is shown, a whole number of steps.
        question: What is asked.

    Returns:
        ``spread``, the standard deviation of the full logits; ``mean`` and ``most``, the mean and the largest absolute
        difference; ``same_first``, the share of rows whose likeliest token is the same.
    """
    full, changed = (_logits(backbone, frames, question) for backbone in (one, other))
    off = (full - changed).abs()
    same = (full.argmax(-1) == changed.argmax(-1)).float().mean()
    return {
        "spread": float(full.std()),
        "mean": float(off.mean()),
        "most": float(off.max()),
        "same_first": float(same),
    }


def _logits(backbone: Any, frames: Sequence[Frame], question: str) -> Tensor:
    """Prefix, clip and question as one prompt on an empty past: (T, V) fp32."""
    backbone = backbone.at(backbone.choose(backbone.view, frames[0]))
    clip = backbone.wrap(backbone.vision(backbone.pixels(frames), frames), Cursor())
    cursor = replace(Cursor(), clip_open=True)
    parts = [backbone.open(), clip, backbone.close_clip(cursor), backbone.turn(question, cursor)]
    whole, _ = backbone.place(Cursor(), join([part for part in parts if part is not None]))
    context = CacheContext(backbone.spec, [], next_row=0, positions=backbone.spec.positions)
    logits: Tensor = backbone.logits(backbone.extend(whole, context))
    return logits.float()
