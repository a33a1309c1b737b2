"""Keys and values in 8 bits: keys with one scale per channel, values with one per row.

Keys have channels that are large in every row, values do not; so rounding keys along the rows and values along the
channels loses least (KIVI, arXiv 2402.02750, which goes down to 2 bits). Symmetric, no zero point.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 127


def narrow(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Round to 8 bits.

    Args:
        x: (G, R, D) keys or values.
        axis: Axis over which one scale holds: 1 for keys, 2 for values.

    Returns:
        int8 codes like ``x``, and fp32 scales with 1 on the axis; the error is at most half a scale.
    """
    wide = x.float()
    size = wide.abs().amax(dim=axis, keepdim=True) if x.numel() else wide.new_zeros(wide.sum(axis, keepdim=True).shape)
    scale = (size / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.round(wide / scale).clamp(-LEVELS, LEVELS).to(torch.int8), scale


def widen(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Undo ``narrow`` up to rounding."""
    return (codes.float() * scale).to(dtype)
