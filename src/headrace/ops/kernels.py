"""Choosing and moving a layer's rows on a GPU, a kernel each, in Triton; plain twins stand in ``ops/selective.py``.

Operations of torch take some twenty launches for this, which is more than a dense layer's matrix products take. Rows
are chosen without sorting: a row's rank is the number of rows before it, and counting them all is less than a launch.

Needs the package ``triton``, which comes with torch where torch is built for a GPU; with TRITON_INTERPRET=1 in the
environment it runs these on a CPU, slowly.

Shapes: F frames, N rows of each, U of them chosen, D width. A program is a row, but for ranks, where it is 16 rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from headrace.ops.selective import Chosen, choose_plainly

RANKED, AGAINST = 16, 128  # rows ranked by a program, rows it looks at in one go
AS_WRITTEN = {"enable_fp_fusion": False}  # products are rounded before they are added; versions differ in what is usual


@triton.jit
def _compare(keys, reference, scores, num, width: tl.constexpr, block: tl.constexpr, metric: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    a = tl.load(keys + row * width + at, mask=at < width, other=0.0).to(tl.float32)
    b = tl.load(reference + row % num * width + at, mask=at < width, other=0.0).to(tl.float32)
    if metric == "cosine":
        lengths = tl.sqrt_rn(tl.sum(a * a, 0)) * tl.sqrt_rn(tl.sum(b * b, 0))
        score = tl.div_rn(tl.sum(a * b, 0), tl.maximum(lengths, 1e-8))
    elif metric == "dot":
        score = tl.sum(a * b, 0)
    elif metric == "l1":
        score = -tl.sum(tl.abs(a - b), 0)
    else:
        score = -tl.sqrt_rn(tl.sum((a - b) * (a - b), 0))
    tl.store(scores + row, tl.where(score == score, score, float("inf")))  # what is no number comes last


@triton.jit
def _rank(scores, places, rows, num, many, block: tl.constexpr, step: tl.constexpr):
    frame = tl.program_id(1)
    at = tl.program_id(0) * block + tl.arange(0, block)
    mine = tl.load(scores + frame * num + at, mask=at < num, other=0.0)
    rank = tl.zeros([block], tl.int32)
    for first in range(0, num, step):
        other = first + tl.arange(0, step)
        theirs = tl.load(scores + frame * num + other, mask=other < num, other=0.0)
        tie = (theirs[None, :] == mine[:, None]) & (other[None, :] < at[:, None])
        before = ((theirs[None, :] < mine[:, None]) | tie) & (other < num)[None, :]
        rank += tl.sum(before.to(tl.int32), 1)
    chosen = (rank < many) & (at < num)
    tl.store(places + frame * num + at, tl.where(chosen, rank, -1), mask=at < num)
    tl.store(rows + frame * many + rank, at.to(tl.int64), mask=chosen)


@triton.jit
def _pick(x, h, rows, of_x, of_h, num, many, width: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64)
    row = place // many * num + tl.load(rows + place)
    at = tl.arange(0, block)
    tl.store(of_x + place * width + at, tl.load(x + row * width + at, mask=at < width), mask=at < width)
    tl.store(of_h + place * width + at, tl.load(h + row * width + at, mask=at < width), mask=at < width)


@triton.jit
def _put(base, new, places, found, num, many, width: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(places + row)
    at = tl.arange(0, block)
    if place >= 0:
        value = tl.load(new + (row // num * many + place) * width + at, mask=at < width)
    else:
        value = tl.load(base + row % num * width + at, mask=at < width)
    tl.store(found + row * width + at, value, mask=at < width)


@triton.jit
def _settle(h, added, picked, mixed, places, found, num, many, width: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(places + row)
    at = tl.arange(0, block)
    if place >= 0:
        chosen = (row // num * many + place) * width + at
        value = tl.load(picked + chosen, mask=at < width).to(tl.float32)
        value += tl.load(mixed + chosen, mask=at < width).to(tl.float32)
    else:
        value = tl.load(h + row * width + at, mask=at < width).to(tl.float32)
        value += tl.load(added + row % num * width + at, mask=at < width).to(tl.float32)
    tl.store(found + row * width + at, value.to(found.dtype.element_ty), mask=at < width)


@dataclass(frozen=True, slots=True, eq=False)
class ChosenByKernels(Chosen):
    """The same as ``Chosen`` by one launch each.

    Attributes:
        places: (F, N) int32 place of every row among the chosen ones, -1 where it is none.
    """

    places: Tensor

    def pick(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Take the rows out of two (F, N, D) tensors: (F, U, D) each."""
        of_x, of_h = (y.new_empty(*self.rows.shape, y.shape[-1]) for y in (x, h))
        self._launch(_pick, x, h, self.rows, of_x, of_h, grid=self.rows.numel())
        return of_x, of_h

    def put(self, base: Tensor, new: Tensor) -> Tensor:
        """Return (N, D) ``base`` for every frame, with the (F, U, D) rows ``new`` in their places: (F, N, D)."""
        found = base.new_empty(*self.places.shape, base.shape[-1])
        self._launch(_put, base, new, self.places, found, grid=self.places.numel())
        return found

    def settle(self, h: Tensor, added: Tensor, picked: Tensor, mixed: Tensor) -> Tensor:
        """Give every row what it is owed; see ``Chosen.settle``."""
        found = torch.empty_like(h, memory_format=torch.contiguous_format)
        self._launch(_settle, h, added, picked, mixed, self.places, found, grid=self.places.numel())
        return found

    def _launch(self, kernel: Any, *tensors: Tensor, grid: int) -> None:
        num, many, width = self.places.shape[1], self.rows.shape[1], tensors[0].shape[-1]
        with _on(tensors[0]):
            kernel[(grid,)](
                *(y.contiguous() for y in tensors), num, many, width, triton.next_power_of_2(width), **AS_WRITTEN
            )


def choose(keys: Tensor, reference: Tensor, *, num: int, metric: str) -> ChosenByKernels:
    """Choose as ``selective.choose`` does, by two launches."""
    (frames, total, width), device = keys.shape, keys.device
    scores = torch.empty(frames, total, dtype=torch.float32, device=device)
    places = torch.empty(frames, total, device=device, dtype=torch.int32)
    rows = torch.empty(frames, num, device=device, dtype=torch.int64)
    block = triton.next_power_of_2(width)
    with _on(keys):
        apart = keys.contiguous(), reference.contiguous()
        _compare[(frames * total,)](*apart, scores, total, width, block, metric, **AS_WRITTEN)
        _rank[(triton.cdiv(total, RANKED), frames)](scores, places, rows, total, num, RANKED, AGAINST, **AS_WRITTEN)
    return ChosenByKernels(rows, rows.flatten(), places)


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """Make a tensor's device the current one, which is where a kernel goes."""
    if x.device.type == "cpu":  # interpreted
        return nullcontext()
    at: Callable[[torch.device], AbstractContextManager[Any]] = torch.get_device_module(x.device).device
    return at(x.device)


@torch.no_grad()
def check(device: torch.device) -> None:
    """Raise an error where the kernels do not run on a device, or give something else than plain operations."""
    keys = torch.linspace(-1, 1, 2 * 21 * 40, dtype=torch.float32).sin().view(2, 21, 40).to(device)
    reference, new = keys[0] * keys[1], keys[:, :6] + 1
    found, expected = (make(keys, reference, num=6, metric="cosine") for make in (choose, choose_plainly))
    for a, b in (
        (found.rows, expected.rows),
        *zip(found.pick(keys, keys + 1), expected.pick(keys, keys + 1), strict=True),
        (found.put(reference, new), expected.put(reference, new)),
        (found.settle(keys, reference, new, new), expected.settle(keys, reference, new, new)),
    ):
        if not torch.equal(a, b):
            raise RuntimeError("they give other results")
