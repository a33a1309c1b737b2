"""Rows of a tower layer that are computed anew: which ones, and their way out of the layer's rows and back in.

On a GPU a frame's rows are few and launching an operation costs more than the operation. Where it is asked for, each of
these is one kernel there (``ops/kernels.py``) that gives the same, comparison up to the order of its sums.

Shapes: F frames, N rows of each, U of them chosen, D width.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

METRICS = ("cosine", "l1", "l2", "dot")
NARROW = (torch.float32, torch.bfloat16, torch.float16)  # what the kernels compute with


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Multiply row by row: (F, N, D) and (N, D) to (F, N)."""
    product: Tensor = torch.linalg.vecdot(a, b)
    return product


def similarity(keys: Tensor, reference: Tensor, metric: str) -> Tensor:
    """Compare fresh keys with the reference, in fp32; the lower, the more a row changed.

    Where a tower turns keys by their place, both are turned alike, which changes none of these but ``l1``.

    Args:
        keys: (F, N, D).
        reference: (N, D).
        metric: One of ``METRICS``; distances are negated.

    Returns:
        (F, N) float32.
    """
    a, b = keys.float(), reference.float()
    if metric == "cosine":
        lengths: Tensor = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
        return dot(a, b) / lengths.clamp(min=1e-8)
    if metric == "dot":
        return dot(a, b)
    moved: Tensor = torch.linalg.vector_norm(a - b, ord=1 if metric == "l1" else 2, dim=-1)
    return -moved


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Rows that are computed anew, and how tensors of all rows become tensors of these and back.

    Attributes:
        rows: (F, U) int64 in order of choice, none twice.
        flat: (F * U,) int64, the same among the rows of all frames.
    """

    rows: Tensor
    flat: Tensor

    def pick(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Take the rows out of two (F, N, D) tensors: (F, U, D) each."""
        x, h = (y.flatten(0, 1).index_select(0, self.flat).view(*self.rows.shape, -1) for y in (x, h))
        return x, h

    def put(self, base: Tensor, new: Tensor) -> Tensor:
        """Return (N, D) ``base`` for every frame, with the (F, U, D) rows ``new`` in their places: (F, N, D)."""
        return self._put(base.repeat(len(self.rows), 1, 1), new)

    def settle(self, h: Tensor, added: Tensor, picked: Tensor, mixed: Tensor) -> Tensor:
        """Give every row what it is owed.

        Args:
            h: (F, N, D) rows.
            added: (N, D) what a row that was not chosen takes on top.
            picked: (F, U, D) chosen rows.
            mixed: (F, U, D) what they take on top.

        Returns:
            (F, N, D).
        """
        return self._put(h + added, picked + mixed)

    def _put(self, all_rows: Tensor, new: Tensor) -> Tensor:
        """Write into rows that are nobody else's."""
        return all_rows.flatten(0, 1).index_copy_(0, self.flat, new.flatten(0, 1)).view_as(all_rows)


def choose(keys: Tensor, reference: Tensor, *, num: int, metric: str, fused: bool = False) -> Chosen:
    """Choose the rows whose keys are least like the reference, the earlier row on a tie.

    Args:
        keys: (F, N, D).
        reference: (N, D).
        num: U, how many of each frame.
        metric: One of ``METRICS``.
        fused: By the kernels, where the device runs them, the type is one of ``NARROW`` and nobody wants gradients.
    """
    usable = fused and keys.dtype in NARROW and not torch.is_grad_enabled()
    if usable and (kernels := kernels_on(keys.device)) is not None:
        chosen: Chosen = kernels.choose(keys, reference, num=num, metric=metric)
        return chosen
    return choose_plainly(keys, reference, num=num, metric=metric)


def choose_plainly(keys: Tensor, reference: Tensor, *, num: int, metric: str) -> Chosen:
    """Choose as ``choose`` does, by operations of torch."""
    rows = similarity(keys, reference, metric).sort(dim=1, stable=True).indices[:, :num]
    if len(rows) == 1:
        return Chosen(rows, rows[0])
    return Chosen(rows, (rows + keys.shape[1] * torch.arange(len(rows), device=rows.device)[:, None]).flatten())


@cache
def kernels_on(device: torch.device) -> Any:
    """The kernels, where a device runs them and they give there what plain operations give; else None."""
    if device.type == "cpu":
        return None
    try:
        from headrace.ops import kernels

        kernels.check(device)
    except ImportError as error:
        log.info("rows are chosen by plain operations on %s: %s", device, error)
        return None
    except Exception as error:  # compilers and drivers raise what they like
        why = str(error).strip().splitlines() or [type(error).__name__]
        log.warning("the kernels that choose rows do not work on %s, plain operations do: %s", device, why[0])
        return None
    return kernels
