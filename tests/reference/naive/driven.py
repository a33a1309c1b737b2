"""Driving a memory's Context with queries, keys and values from a file instead of a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from headrace.types import Kind, ModelSpec, Rope, Segment


def one_layer(values: dict[str, Any]) -> ModelSpec:
    """Describe a decoder of one layer with the heads and the rotary base of a golden file's settings."""
    width = values["head_dim"]
    inv_freq = 1.0 / values["rope_base"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    return ModelSpec(
        family="golden",
        name="golden",
        layers=1,
        heads=values["heads"],
        kv_heads=values["kv_heads"],
        head_dim=width,
        dim=4,
        grid=(64, 64),
        vision_layers=1,
        vision_dim=4,
        frames_per_step=1,
        rope=Rope(inv_freq),
        scale=width**-0.5,
        windows=(None,),
        positions="repack",
        dtype=torch.float32,
        device=torch.device("cpu"),
        stop_ids=(0,),
    )


def rows_of(start: int, num: int, frame: Callable[[int], int], *, text: bool = False) -> Segment:
    """The rows ``start..start+num`` of a stream, with the frame each belongs to; what they show does not matter."""
    rows = range(start, start + num)
    return Segment(
        embeds=torch.zeros(num, 4),
        ids=torch.arange(start, start + num)[None],
        advance=num,
        kind=torch.full((num,), int(Kind.TEXT if text else Kind.VISUAL), dtype=torch.int8),
        frame=torch.tensor([frame(row) for row in rows], dtype=torch.int64),
        time_s=torch.tensor([float(frame(row)) for row in rows], dtype=torch.float64),
        tokens=torch.full((num,), -1),
    )
