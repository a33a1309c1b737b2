"""Averaging rows of a sequence in runs of neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def runs_of(visual: Tensor, size: int, lengths: Sequence[int] = ()) -> Tensor:
    """Number the runs that are averaged.

    Visual rows that follow each other are cut into runs of ``size``, the last one shorter; any other row is its own.

    Args:
        visual: (R,) bool.
        size: Rows of a run.
        lengths: Of stretches that the rows consist of, each begun anew; none: one stretch.

    Returns:
        (R,) int64 ascending run numbers.
    """
    if not len(visual):
        return torch.empty(0, dtype=torch.int64)
    change = torch.ones(len(visual), dtype=torch.bool)
    change[1:] = ~(visual[1:] & visual[:-1])
    begins = torch.tensor(lengths[:-1], dtype=torch.int64).cumsum(0)
    change[begins[begins < len(visual)]] = True
    begins = torch.nonzero(change).squeeze(1)
    offset = torch.arange(len(visual)) - begins[change.cumsum(0) - 1]
    return (change | (offset % size == 0)).cumsum(0) - 1


def averaged(x: Tensor, run: Tensor) -> Tensor:
    """Average (..., R, D) rows of one run each: (..., K, D), in fp32 inside."""
    num = int(run[-1]) + 1 if len(run) else 0
    at = run.to(x.device)
    out = torch.zeros(
        *x.shape[:-2], num, x.shape[-1], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device
    )
    count = torch.bincount(run, minlength=num).to(x.device)[:, None]
    return (out.index_add_(-2, at, x.to(out.dtype)) / count).to(x.dtype)
