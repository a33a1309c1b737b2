"""A backbone that notes how long its parts take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headrace.backbones.tower import dense_pass
from headrace.bench.products import Counting, Product
from headrace.engine.step import wait
from headrace.types import Frame, View, VisualTokens


class Timed:
    """A backbone that notes how long pixels and projection take, so that what is left of encoding is the tower.

    It also keeps the last projected tokens, and those of the dense contender for transformers to prefill; and, where
    ``counting`` is set, the matrix products of the last projection. All frames of a bench have one size, so to streams
    it looks like a model that knows no other.
    """

    def __init__(self, backbone: Any) -> None:
        self._inner = backbone
        self.ms = {"pixels": 0.0, "project": 0.0}
        self.projected = self.dense = torch.empty(0)
        self.counting = False
        self.products: Counter[Product] = Counter()

        self.view = View()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def settle(self, frame: Frame) -> None:
        """Fix the size of all frames by the first one."""
        self._inner = self._inner.at(self._inner.choose(View(), frame))

    def choose(self, view: View, frame: Frame) -> View:
        """Leave the view as it is."""
        return view

    def at(self, view: View) -> Timed:
        """Stay as it is."""
        return self

    def pixels(self, frames: Sequence[Frame]) -> Tensor:
        """As the backbone."""
        return self._time("pixels", partial(self._inner.pixels, frames))  # type: ignore[no-any-return]

    def project(self, h: Tensor, frames: Sequence[Frame], taps: Sequence[Tensor] = ()) -> VisualTokens:
        """As the backbone."""
        if self.counting:
            with Counting() as found:
                tokens: VisualTokens = self._inner.project(h, frames, taps)
            self.products = found.products
            return tokens
        tokens = self._time("project", partial(self._inner.project, h, frames, taps))
        self.projected = tokens.features
        return tokens

    def vision(self, px: Tensor, frames: Sequence[Frame]) -> VisualTokens:
        """As the backbone, in parts."""
        h, *taps = dense_pass(self._inner, px)
        return self.project(h, frames, taps)

    def _time(self, name: str, work: Callable[[], Any]) -> Any:
        wait(self._inner.spec.device)  # what was asked for before belongs to another stage
        start = time.perf_counter()
        result = work()
        wait(self._inner.spec.device)
        self.ms[name] = 1000 * (time.perf_counter() - start)
        return result
