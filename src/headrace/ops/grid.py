"""Places on a picture's grid."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(mask: Tensor, grid: tuple[int, int], reach: int, *, order: Tensor | None = None) -> Tensor:
    """Mark all places at most ``reach`` rows and columns away from a marked one.

    Args:
        mask: (N,) bool.
        grid: Rows and columns; N places.
        reach: >= 0.
        order: (N,) int64 place on the grid of every entry of the mask, None for raster order.

    Returns:
        (N,) bool, in the order of ``mask``.
    """
    if not reach:
        return mask
    marked = raster_order(mask, order).view(1, 1, *grid).float()
    wide = torch.nn.functional.max_pool2d(marked, 2 * reach + 1, stride=1, padding=reach).flatten() > 0
    return wide if order is None else wide[order]


def raster_order(x: Tensor, order: Tensor | None) -> Tensor:
    """Put the last axis of (..., N), whose entries stand at the places ``order``, into raster order."""
    return x if order is None else torch.empty_like(x).index_copy_(-1, order, x)
