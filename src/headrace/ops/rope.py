"""Rotary position embedding of un-rotated keys and queries, at any position.

Source: RoFormer (arXiv 2104.09864), the half-split layout of the LLaMA and Qwen families; M-RoPE as in Qwen2-VL
(chunked) and Qwen3-VL (interleaved).
"""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.types import Rope


def cos_sin(rope: Rope, positions: Tensor, *, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Compute the rotation of each position.

    Up to the trained length the angle is the fp32 product transformers computes; beyond it the product is taken in
    fp64 (the fp32 one is off by 0.2 at 1e7), so an endless stream keeps exact angles.

    Args:
        rope: Frequencies and layout.
        positions: (P, T) whole numbers or fractions, >= 0, on the CPU.
        dtype: Type of the result.
        device: Where the result goes.

    Returns:
        cos and sin, each (T, D), the half-width angles written twice.
    """
    far_off, inv_freq = bool((positions > rope.trained_length).any()), rope.inv_freq
    if not far_off:  # some accelerators have no fp64
        positions, inv_freq = positions.float().to(device), inv_freq.to(device)
    place = positions[:, :, None]
    angle = place.float() * inv_freq
    cos, sin = angle.cos(), angle.sin()
    if far_off:
        past = place > rope.trained_length
        far = place.double() * inv_freq.double()
        cos = torch.where(past, far.cos().float(), cos)
        sin = torch.where(past, far.sin().float(), sin)
    cos, sin = (_spread(rope, x * rope.scaling).to(device=device, dtype=dtype) for x in (cos, sin))
    return torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)


def _spread(rope: Rope, x: Tensor) -> Tensor:
    """Choose the axis of each channel: (P, T, D/2) to (T, D/2)."""
    if x.shape[0] == 1:
        return x[0]
    if rope.section is None:
        raise ValueError("rope: three position rows need a section")
    if rope.kind == "chunked":
        parts = torch.split(x, list(rope.section), dim=-1)
        return torch.cat([part[axis] for axis, part in enumerate(parts)], -1)
    out = x[0].clone()
    for axis in (1, 2):
        channels = slice(axis, 3 * rope.section[axis], 3)
        out[:, channels] = x[axis, :, channels]
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (heads, T, D) by (T, D) cosines and sines, in the type of ``x``."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos + turned * sin
