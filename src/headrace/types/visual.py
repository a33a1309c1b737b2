"""Pictures and their visual tokens, and the edits a compressor may make to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

LAST_INDEX = 1 << 62  # indices are counted on in int64


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of a stream.

    Attributes:
        index: Position in the source, counted from 0 over the frames that were handed out.
        time_s: Presentation time in seconds from the start of the stream, finite.
        image: uint8 tensor (height, width, 3), RGB.
        gap: True when frames are known to be missing before this one (reconnect, decode error).
    """

    index: int
    time_s: float
    image: Tensor
    gap: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", int(self.index))  # numpy's numbers may not stand in a state
        object.__setattr__(self, "time_s", float(self.time_s))
        if not 0 <= self.index < LAST_INDEX:
            raise ValueError(f"a frame's index must be a whole number from 0, below 2**62, not {self.index}")
        if not math.isfinite(self.time_s):
            raise ValueError(f"a frame's time_s must be a number of seconds, not {self.time_s}")
        if (
            self.image.dtype != torch.uint8
            or self.image.ndim != 3
            or self.image.shape[2] != 3
            or not self.image.numel()
        ):
            kind, shape, dtype = type(self.image).__name__, tuple(self.image.shape), self.image.dtype
            raise ValueError(
                f"a frame's image must be a uint8 tensor (height, width, 3) and not empty, not a {dtype} {kind} {shape}"
            )

    def fork(self) -> Frame:
        """Return itself: the value is never changed in place, so streams may share it."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class VisualTokens:
    """Visual tokens of one step (one or several frames), with where each came from.

    Attributes:
        features: (N, D) features in the decoder's width.
        frame: (N,) int64, ordinal of the token's frame within this step, 0..F-1. Places stay on the CPU.
        row: (N,) int64 row on the pooled grid.
        col: (N,) int64 column on the pooled grid.
        grid: (rows, columns) of the pooled grid; the same for every frame of the step.
        frames: Stream index of each of the F frames.
        times_s: Presentation time of each of the F frames, in seconds.
        ends_s: Where a temporal step is several frames, the time of the last frame of each; None where it is one.
        deep: (J, N, D) features that join decoder layers 0..J-1, or None.
        weight: (N,) float32 number of dense tokens each one stands for, or None when all are 1.
    """

    features: Tensor
    frame: Tensor
    row: Tensor
    col: Tensor
    grid: tuple[int, int]
    frames: tuple[int, ...]
    times_s: tuple[float, ...]
    deep: Tensor | None = None
    weight: Tensor | None = None
    ends_s: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return self.features.shape[0]

    @property
    def dense_len(self) -> int:
        """Number of tokens of this step before anything was dropped."""
        return len(self.frames) * self.grid[0] * self.grid[1]

    @property
    def slot(self) -> Tensor:
        """(N,) int64: index of each token among all tokens of the step before anything was dropped."""
        return (self.frame * self.grid[0] + self.row) * self.grid[1] + self.col

    def take(self, indices: Tensor) -> VisualTokens:
        """Keep the tokens at ``indices`` ((K,) int64, ascending), with every attached map."""
        host = indices.cpu()
        return replace(
            self,
            features=self.features[indices],
            frame=self.frame[host],
            row=self.row[host],
            col=self.col[host],
            deep=None if self.deep is None else self.deep[:, indices],
            weight=None if self.weight is None else self.weight[indices],
        )

    def merge(self, groups: Tensor, weights: Tensor) -> VisualTokens:
        """Average tokens into groups; a group keeps the place of its heaviest (then first) token.

        Args:
            groups: (N,) int64, group number of each token, 0..K-1, every group non-empty.
            weights: (N,) float32 > 0, share of each token in its group's mean.

        Both may lie on any device.

        Returns:
            K tokens, in the raster order of their places.
        """
        num = int(groups.max()) + 1
        groups, weights = groups.to(self.features.device), weights.to(self.features.device)
        none = torch.zeros(num, dtype=torch.float32, device=weights.device)
        share = weights.float() / none.index_add(0, groups, weights.float())[groups]
        chief = torch.full((num,), len(self), dtype=torch.int64, device=groups.device)
        heaviest = none.scatter_reduce(0, groups, weights.float(), "amax")
        is_chief = weights.float() == heaviest[groups]
        chief.scatter_reduce_(0, groups[is_chief], torch.nonzero(is_chief).squeeze(1), "amin")

        def mean(x: Tensor) -> Tensor:
            out = torch.zeros(num, x.shape[1], dtype=torch.float32, device=x.device)
            return out.index_add_(0, groups, x.float() * share[:, None]).to(x.dtype)

        old = torch.ones(len(self), dtype=torch.float32, device=groups.device) if self.weight is None else self.weight
        merged = replace(
            self.take(chief),
            features=mean(self.features),
            deep=None if self.deep is None else torch.stack([mean(x) for x in self.deep]),
            weight=None if self.weight is None and num == len(self) else none.index_add(0, groups, old.float()),
        )
        return merged.take(torch.argsort(merged.slot))

    def split(self) -> tuple[VisualTokens, ...]:
        """Cut a step into its frames; a frame that lost all its tokens stays, empty."""
        parts = []
        for i, (frame, time_s) in enumerate(zip(self.frames, self.times_s, strict=True)):
            part = self.take(torch.nonzero(self.frame == i).squeeze(1))
            ends = None if self.ends_s is None else (self.ends_s[i],)
            own = replace(part, frames=(frame,), times_s=(time_s,), ends_s=ends)
            parts.append(replace(own, frame=torch.zeros_like(part.frame)))
        return tuple(parts)

    def num_bytes(self) -> int:
        """Bytes of all attached tensors."""
        parts = (self.features, self.frame, self.row, self.col, self.deep, self.weight)
        return sum(x.numel() * x.itemsize for x in parts if x is not None)

    def fork(self) -> VisualTokens:
        """Return itself: the value is never changed in place, so streams may share it."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Visual tokens that a memory shows again at positions of its own, where the model has three position rows.

    Attributes:
        tokens: The tokens of one frame.
        ids: (3, N) int64 positions in time, rows and columns, relative to where the first token stands.
        advance: Positions they consume; 0 where the next item is counted from the same start.
    """

    tokens: VisualTokens
    ids: Tensor
    advance: int


@dataclass(frozen=True, slots=True, eq=False)
class Keep:
    """A compressor's edit: keep the tokens at ``indices`` ((K,) int64, ascending)."""

    indices: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """A compressor's edit: average tokens with equal ``groups`` ((N,) int64), weighted by ``weights`` ((N,))."""

    groups: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Replace:
    """A compressor's edit: use these tokens instead."""

    tokens: VisualTokens


Edit = Keep | Merge | Replace


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What one step looked at and what became of it; handed to a stream's observer.

    Attributes:
        frames: The step's frames.
        dense: Visual tokens before the compressor.
        edit: What the compressor did to them.
        kept: Visual tokens after it.
        encoder: State of the encoder after the step; read it at once, the next step may reuse it.
    """

    frames: tuple[Frame, ...]
    dense: VisualTokens
    edit: Edit
    kept: VisualTokens
    encoder: Any
