"""Places on a picture's grid."""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.types import VisualTokens


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
    return x if order is None else torch.empty_like(x).index_copy_(-1, order.to(x.device), x)


def pool_cells(tokens: VisualTokens, last: Tensor | None = None) -> Tensor | None:
    """Pool a frame's tokens 2x2: each cell is the average of those of its tokens that are there.

    A cell that lost all its tokens is what it was last; one that never had any is the average of the whole frame.

    Args:
        tokens: Tokens of one frame, some of which may be missing.
        last: (1+J, S, D) what this gave for the frame before.

    Returns:
        (1+J, S, D) features and deepstack features of the S cells in raster order, in the type of the tokens; ``last``
        where there is no token at all.
    """
    if not len(tokens):
        return last
    rows, cols = (-(-size // 2) for size in tokens.grid)
    cell = ((tokens.row // 2) * cols + tokens.col // 2).to(tokens.features.device)
    whole = tokens.features[None] if tokens.deep is None else torch.cat((tokens.features[None], tokens.deep))
    count = torch.bincount(cell, minlength=rows * cols)
    total = torch.zeros(len(whole), rows * cols, whole.shape[2], dtype=torch.float32, device=cell.device)
    total.index_add_(1, cell, whole.float())
    mean = (total / count.clamp(min=1)[:, None]).to(whole.dtype)
    rest = whole.float().mean(dim=1, keepdim=True).to(whole.dtype).expand_as(mean) if last is None else last
    return torch.where((count > 0)[:, None], mean, rest)
