"""Rows that only a benchmark has: frames encoded once for all, and an oracle that knows the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from headrace.engine.step import wait
from headrace.ops.budget import check_keep, num_kept
from headrace.protocols import Backbone, Card, Method
from headrace.types import Frame, Keep, ModelSpec, VisualTokens

Foreground = Callable[[int, tuple[int, int]], Tensor]


class Glance:
    """What an encoder makes of the frames of a step, worked out when it is first asked for.

    Args:
        look: Does the work.

    Attributes:
        ms: Milliseconds it took, 0 as long as nobody asked.
    """

    def __init__(self, look: Callable[[], VisualTokens]) -> None:
        self._look, self.ms = look, 0.0
        self._tokens: VisualTokens | None = None

    def tokens(self) -> VisualTokens:
        """The tokens."""
        if self._tokens is None:
            start = time.perf_counter()
            self._tokens = self._look()
            wait(self._tokens.features.device)
            self.ms = 1000 * (time.perf_counter() - start)
        return self._tokens


@dataclass(frozen=True, kw_only=True)
class Given(Method):
    """An encoder that hands out tokens the benchmark computed once for all pipelines with the same encoder.

    Attributes:
        glances: What there is to see, by the indices of a step's frames.
    """

    glances: dict[tuple[int, ...], Glance] = field(default_factory=dict)

    card: ClassVar[Card] = Card("tokens computed once")

    def init(self, spec: ModelSpec) -> None:
        """Nothing to remember."""

    def step(self, state: None, frames: Sequence[Frame], backbone: Backbone) -> tuple[None, VisualTokens]:
        """Look the frames up."""
        return None, self.glances[tuple(frame.index for frame in frames)].tokens()


@dataclass(frozen=True, kw_only=True)
class Oracle(Method):
    """A compressor that keeps what the world knows to be foreground, and fills up with evenly spaced background.

    Attributes:
        keep: Tokens per frame (int), or fraction (float).
        foreground: From frame index and grid to (rows * columns,) bool.
    """

    keep: int | float
    foreground: Foreground

    card: ClassVar[Card] = Card("oracle foreground")
    shorthand: ClassVar[str] = "keep"

    def __post_init__(self) -> None:
        check_keep(self.keep)

    def init(self, spec: ModelSpec) -> None:
        """Nothing to remember."""

    def step(self, state: None, tokens: VisualTokens) -> tuple[None, Keep]:
        """Rank foreground before background, each evenly spread, and keep the best."""
        kept = []
        for ordinal, index in enumerate(tokens.frames):
            own = torch.nonzero(tokens.frame == ordinal).squeeze(1)
            shown = self.foreground(index, tokens.grid)[tokens.slot[own] % (tokens.grid[0] * tokens.grid[1])]
            order = torch.cat([_spread(torch.nonzero(shown == part).squeeze(1)) for part in (True, False)])
            kept.append(own[order[: num_kept(self.keep, len(own))].sort().values])
        return None, Keep(torch.cat(kept))


def _spread(indices: Tensor) -> Tensor:
    """Order indices so that every beginning of the list is spread evenly: by the reversed bits of their rank."""
    bits = max(1, (len(indices) - 1).bit_length())
    rank = sorted(range(len(indices)), key=lambda i: int(format(i, f"0{bits}b")[::-1], 2))
    return indices[torch.tensor(rank, dtype=torch.int64)]
