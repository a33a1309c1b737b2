"""Places on a picture's grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headrace.types import VisualTokens


def raster(num: int, size: tuple[int, int]) -> tuple[int, int]:
    """Tell how ``num`` square patches cover a picture.

    Args:
        num: Patches.
        size: Height and width of the picture in pixels.

    Returns:
        Rows and columns; (1, num) where no grid of that many patches fits.
    """
    rows = max(1, round(math.sqrt(num * size[0] / size[1])))
    return (rows, num // rows) if num % rows == 0 else (1, num)


def spread(mask: Tensor, grid: tuple[int, int], reach: int) -> Tensor:
    """Mark all places at most ``reach`` rows and columns away from a marked one: (N,) bool to (N,) bool."""
    if not reach:
        return mask
    marked = mask.view(1, 1, *grid).float()
    return torch.nn.functional.max_pool2d(marked, 2 * reach + 1, stride=1, padding=reach).flatten() > 0


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
