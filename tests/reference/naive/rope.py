"""Rotary embedding in fp64, one channel at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from headrace.types import Rope


def axis_of(rope: Rope, channel: int, num_axes: int) -> int:
    """Which of the position rows turns a channel of the half width."""
    if num_axes == 1:
        return 0
    if rope.kind == "chunked":
        ends = [sum(rope.section[: axis + 1]) for axis in range(3)]
        return next(axis for axis, end in enumerate(ends) if channel < end)
    assert rope.kind == "interleaved"
    axis = channel % 3
    return axis if axis and channel < 3 * rope.section[axis] else 0


def rotate_row(x: Tensor, place: Sequence[int], rope: Rope) -> Tensor:
    """Rotate one row of one head at the position ``place`` (one number per axis)."""
    half = len(x) // 2
    out = [0.0] * len(x)
    for channel in range(half):
        axis = axis_of(rope, channel, len(place))
        angle = float(place[axis]) * float(rope.inv_freq[channel])
        cos, sin = math.cos(angle) * rope.scaling, math.sin(angle) * rope.scaling
        a, b = float(x[channel]), float(x[channel + half])
        out[channel], out[channel + half] = a * cos - b * sin, b * cos + a * sin
    return torch.tensor(out, dtype=torch.float64)


def rotate_heads(x: Tensor, places: Sequence[Sequence[int]], rope: Rope) -> Tensor:
    """Rotate (heads, T, D) rows at T positions."""
    heads, rows, width = x.shape
    flat = [rotate_row(x[head, row], places[row], rope) for head in range(heads) for row in range(rows)]
    return torch.stack(flat).view(heads, rows, width) if flat else x.double()
