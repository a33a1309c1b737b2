"""Places on a picture's grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
