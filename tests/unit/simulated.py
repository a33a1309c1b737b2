"""A stream that costs simulated time, for the governor's tests: nothing sleeps, nothing is random but by seed."""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from headrace.engine.pipeline import Pipeline
from headrace.types import Frame, Report

STC = "stc_cacher:0.5+uniform:0.5"
GRID = (14, 14)


@dataclass(frozen=True)
class Prices:
    """Milliseconds of an unloaded machine: dense tower, fixed share of a reused one, full prefill, its fixed share."""

    tower: float = 40.0
    tower_fixed: float = 0.2
    prefill: float = 20.0
    prefill_fixed: float = 0.2
    bend: float = 1.0  # exponent of the work: 1 a straight line
    rest: float = 0.5

    def encode(self, encoder: Any, kind: str) -> float:
        share = getattr(encoder, "update_ratio", 1.0) if kind == "reuse" else 1.0
        return self.tower * (self.tower_fixed + (1 - self.tower_fixed) * share**self.bend)

    def decode(self, compressor: Any) -> float:
        keep = getattr(compressor, "keep", 1.0)
        share = keep / (GRID[0] * GRID[1]) if isinstance(keep, int) else keep
        return self.prefill * (self.prefill_fixed + (1 - self.prefill_fixed) * share**self.bend)

    @property
    def cheapest(self) -> float:
        """A step at the cheapest setting of STC: 5 percent of patches and of tokens."""
        cheap = Pipeline.parse("stc_cacher:0.05+uniform:0.05")
        return self.encode(cheap.encoder, "reuse") + self.decode(cheap.compressor) + self.rest


@dataclass
class SimulatedStream:
    """Looks like a Stream to a governor.

    ``load(frame)`` is how much slower the machine is at a push; ``rival(frame)`` is above 0 while another process has
    the core in turn with this one, for so many milliseconds each.
    """

    prices: Prices = field(default_factory=Prices)
    load: Callable[[int], float] = lambda frame: 1.0
    rival: Callable[[int], float] = lambda frame: 0.0
    text: str = STC
    noise: float = 0.03
    seed: int = 0
    chunk_frames: int = 1

    def __post_init__(self) -> None:
        self.pipeline = Pipeline.parse(self.text, chunk_frames=self.chunk_frames)
        self.spec: Any = SimpleNamespace(grid=GRID, frames_per_step=1)
        encoder = SimpleNamespace(step=0, layers=())
        self.state: Any = SimpleNamespace(encoder=encoder, pending=(), num_frames=0, time_s=-1.0, next_index=0)
        self.report: Report | None = None
        self.now_s, self.pushed, self.tuned = 0.0, [], []
        self._random = random.Random(self.seed)
        self._ran_ms = 0.0  # of the slice at hand

    @property
    def num_frames(self) -> int:
        return self.state.num_frames

    def clock(self) -> float:
        return self.now_s

    def tune(self, **values: Any) -> None:
        self.pipeline = self.pipeline.tuned(**values)
        self.tuned.append((self.state.num_frames, values))

    def push(self, frame: Frame) -> list:
        state, self.report = self.state, None
        self.pushed.append(frame)
        state.num_frames, state.time_s, state.next_index = state.num_frames + 1, frame.time_s, frame.index + 1
        state.pending = (*state.pending, frame)
        if len(state.pending) < self.chunk_frames:
            return []
        slow = self.load(frame.index) * self._random.lognormvariate(0, self.noise) * self.chunk_frames
        kind = self.pipeline.encoder.next_kind(state.encoder)
        slice_ms, prices = self.rival(frame.index), self.prices
        encode_ms = self._pass(prices.encode(self.pipeline.encoder, kind) * slow, slice_ms)
        prefill_ms = self._pass(prices.decode(self.pipeline.compressor) * slow, slice_ms)
        stages = {"encode": encode_ms, "compress": 0.0, "prefill": prefill_ms}
        self._pass(prices.rest * slow, slice_ms)
        self.report = Report(tuple(f.index for f in state.pending), frame.time_s, 196, 196, stages)
        state.encoder.step, state.encoder.layers, state.pending = state.encoder.step + 1, (1,), ()
        return []

    def _pass(self, ms: float, slice_ms: float) -> float:
        """Let the time pass that so much work takes, and say how long that was."""
        if slice_ms:
            turns, self._ran_ms = divmod(self._ran_ms + ms, slice_ms)
            ms += turns * slice_ms
        self.now_s += ms / 1000
        return ms


class LiveSource:
    """Frames that come when they are due and wait in a queue; the oldest goes when it is full."""

    def __init__(self, stream: SimulatedStream, num: int, interval_s: float, room: int = 16) -> None:
        self._stream, self._due, self._room, self.lost = stream, [i * interval_s for i in range(num)], room, []
        self._next = 0

    def __iter__(self) -> LiveSource:
        return self

    def __next__(self) -> Frame:
        if self._next == len(self._due):
            raise StopIteration
        come = bisect.bisect_right(self._due, self._stream.now_s)
        while come - self._next > self._room:
            self.lost.append(self._next)
            self._next += 1
        index, self._next = self._next, self._next + 1
        self._stream.now_s = max(self._stream.now_s, self._due[index])
        return Frame(index, self._due[index], blank(index).image)


def blank(index: int) -> Frame:
    return Frame(index, float(index), torch.zeros(1, 1, 3, dtype=torch.uint8))
