"""InfLLM: a window, sinks, and blocks of the past that every step looks up by tokens that stand for them.

Paper: InfLLM: Training-Free Long-Context Extrapolation for LLMs with an Efficient Context Memory (arXiv 2402.04617,
NeurIPS 2024). Original: thunlp/InfLLM (MIT).

Rows that leave the window gather into blocks. A block is known by the few rows of it that got most attention while they
were in the window, head by head. Every step (a frame, a question, a decoded token) looks up the blocks whose rows agree
most with its mean query, and sees them, the first rows, and what lies between blocks and window, all from one distance:
positions never outgrow the window.

Ours differs: a block is a frame unless told otherwise, and may have any number of rows; attention is summed in fp32;
the mask on the rows between blocks and window is the paper's unless ``remainder`` says ``released`` (there it is all
true, so that early queries of a step see some rows twice); blocks have a bound; the first rows that are always seen are
the text prefix (published: 128 rows).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from headrace.cache import (
    Disk,
    Fences,
    KVCache,
    Limits,
    Past,
    Sealed,
    Shelf,
    StepContext,
    Steps,
    Trace,
    VectorIndex,
    Working,
    frame_rows,
    represented,
)
from headrace.cache.sinks import decide_sinks
from headrace.ops.positions import check_policy, resolve_policy
from headrace.protocols import Card, Method
from headrace.types import ModelSpec, Segment, Span, VisualTokens

REMAINDERS = ("paper", "released")


@dataclass(slots=True)
class InfLLMState:
    """What is kept of the past.

    Attributes:
        sinks: The first rows.
        window: Rows that are in no block, with rotated keys.
        shelf: Blocks.
        index: Vectors of the rows that stand for them.
        scores: (L, H, M) fp32 attention the M rows from ``cut`` on have got.
        cut: First row that is neither sink nor in a block.
        ends: Where frames and turns behind ``cut`` end.
        talking: The last rows were text.
        num_sinks: How many of the first rows are sinks, -1 before the first write.
    """

    sinks: KVCache
    window: KVCache
    shelf: Shelf
    index: VectorIndex
    scores: Tensor
    cut: int = 0
    ends: tuple[int, ...] = ()
    talking: bool = False
    num_sinks: int = -1


@dataclass(frozen=True, kw_only=True)
class InfLLM(Method):
    """Window and sinks; every step looks up blocks of the past."""

    retrieve: int = 16  # blocks a step looks up
    window: int = 4096  # newest rows, seen at their true distance
    sinks: int | None = None  # first rows that never leave; None: the text prefix
    block: int | None = None  # rows per block; None: a frame's (published: 128)
    exec_rows: int | None = None  # rows per step; None: a frame's (published: 512)
    represent: int = 4  # rows that stand for a block, per head
    remainder: str = "paper"  # who sees rows between blocks and window: paper, or released (see above)
    per_head: bool = False  # every query head looks up blocks of its own
    max_blocks: int = 2000  # blocks that are kept; the oldest leave
    ram_blocks: int | None = None  # newest of these that stay in memory, the others go to the disk; None: all
    narrow: bool = False  # keep blocks in 8 bits
    near: int = 32  # blocks per layer copied to where the decoder runs, if they lie elsewhere; speed only
    positions: str = "auto"  # repack: as published; original: ids with gaps where tokens were dropped; auto: as trained

    card: ClassVar[Card] = Card(
        "InfLLM",
        paper="https://arxiv.org/abs/2402.04617",
        licence="MIT",
        differs="a block is a frame; the paper's mask unless remainder=released; attention summed in fp32; bounded",
    )
    tunable: ClassVar[frozenset[str]] = frozenset({"retrieve", "max_blocks", "near"})
    shorthand: ClassVar[str] = "retrieve"
    kind: ClassVar[str] = "kv"
    digests: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_policy(self.positions)
        for name, least in (("retrieve", 0), ("window", 1), ("represent", 1), ("max_blocks", 1), ("near", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be at least {least}, not {getattr(self, name)}")
        for name, least in (("sinks", 0), ("block", 1), ("exec_rows", 1), ("ram_blocks", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name}: must be at least {least}, not {value}")
        if self.remainder not in REMAINDERS:
            raise ValueError(f"remainder: {self.remainder!r} is unknown; known: {', '.join(REMAINDERS)}")

    def init(self, spec: ModelSpec) -> InfLLMState:
        """Nothing seen."""
        index = VectorIndex.empty(spec.layers, spec.heads * spec.head_dim, spec.device)
        scores = torch.zeros(spec.layers, spec.heads, 0, dtype=torch.float32, device=spec.device)
        window = KVCache(spec, block_rows=min(4096, max(64, self.window // 4)))
        return InfLLMState(KVCache(spec, block_rows=64), window, Shelf(), index, scores)

    def house(self, state: InfLLMState, disk: Disk) -> InfLLMState:
        """Let blocks that do not fit in memory go to a disk."""
        state.shelf = replace(state.shelf, disk=disk)
        return state

    def _most_rows(self, spec: ModelSpec) -> int:
        return self.block or frame_rows(spec)

    def one_by_one(self) -> bool:
        """Frames of a step come in turn, unless a step is a number of rows."""
        return self.exec_rows is None

    def read(self, state: InfLLMState, spec: ModelSpec, *, query: bool) -> StepContext:
        """Frames and questions see the same."""
        num_sinks = state.num_sinks
        if num_sinks < 0 and self.sinks is not None:
            num_sinks = self.sinks
        return StepContext(
            spec,
            Past(state.sinks.snapshot(), state.sinks.table.view()),
            Past(state.window.snapshot(), state.window.table.view()),
            shelf=state.shelf,
            index=state.index,
            trace=self._trace(state),
            steps=Steps(
                reach=self.window,
                num_sinks=num_sinks,
                retrieve=self.retrieve,
                represent=self.represent,
                exec_rows=self.exec_rows or 0,
                released=self.remainder == "released",
                per_head=self.per_head,
                most_rows=self._most_rows(spec),
                near=self.near,
            ),
            next_row=state.window.table.stop,
            positions=resolve_policy(self.positions, spec.positions),
        )

    def _trace(self, state: InfLLMState) -> Trace:
        fences = Fences(self.block or 0, max(state.cut, state.num_sinks), state.ends, state.talking)
        return Trace(tuple(Working(state.cut, scores) for scores in state.scores), fences)

    def write(self, state: InfLLMState, span: Span) -> InfLLMState:
        """Append to the window, and put the blocks that the Context cut on the shelf."""
        first, num = state.window.table.stop, len(span.segment)
        state.num_sinks = decide_sinks(state.num_sinks, self.sinks, span.segment)
        early = min(max(state.num_sinks - first, 0), num)
        if early:
            state.sinks.append(span.cut(0, early))
        state.window.append(span)
        trace = span.trace or self._settled(state, span.segment, first)
        work = trace.working[0]
        for number, (start, stop, _) in enumerate(work.fresh):
            block = Sealed.gather(state.window, start, stop)
            vectors = torch.stack([layer.fresh[number][2] for layer in trace.working])
            state.index = state.index.add(state.shelf.next_id, vectors)
            state.shelf = state.shelf.add(block)
        state.scores = torch.stack([layer.scores for layer in trace.working])
        state.cut, fences = work.cut, trace.fences.dropped(work.cut)
        state.ends, state.talking = fences.ends, fences.talking
        state.window.evict_before(state.cut)
        limits = Limits(self.max_blocks, self.ram_blocks, self.narrow)
        state.shelf, gone = state.shelf.looked_up(trace.looked).settled(limits, state.cut)
        if len(gone):
            state.index = state.index.drop(gone)
        return state

    def _settled(self, state: InfLLMState, segment: Segment, first: int) -> Trace:
        """The bookkeeping for rows that came without a Context: nobody has attended to them."""
        spec, trace = state.window.spec, self._trace(state)
        fences = trace.fences.extended(segment, first, state.num_sinks, self._most_rows(spec))
        end, worked = first + len(segment), []
        for layer, work in enumerate(trace.working):
            work = work.skipped(min(max(end - self.window, 0), state.num_sinks), end)
            while (stop := fences.next(work.cut)) is not None and end - stop >= self.window:
                if work.cut < state.num_sinks:
                    break
                block = Sealed.gather(state.window, work.cut, stop)
                mass = work.scores[:, : stop - work.cut]
                vector, tokens = represented(block.layer(layer)[0], block.offsets[layer], mass, self.represent)
                work = work.cut_off(stop, vector, tokens)
            worked.append(work)
        return Trace(tuple(worked), fences)

    def recall(self, state: InfLLMState) -> tuple[VisualTokens | Segment, ...]:
        """Nothing to run again."""
        return ()

    def num_bytes(self, state: InfLLMState) -> int:
        """Bytes of sinks, window, blocks, their vectors and the scores."""
        kept = state.sinks.num_bytes() + state.window.num_bytes() + state.shelf.num_bytes()
        return kept + state.index.num_bytes() + 4 * state.scores.numel()

    def bound_bytes(self, spec: ModelSpec) -> int:
        """Window, sinks, a block and a step that wait, ``max_blocks`` blocks, their vectors, and copies of blocks."""
        most = self._most_rows(spec)
        rows = self.window + 3 * most + 2 * 4096 + (spec.prefix_rows if self.sinks is None else self.sinks) + 64
        row = spec.row_bytes * 3 // 2 + 8 * spec.layers + 21 + 8 * spec.position_rows + 4 * spec.layers * spec.heads
        notes = most * (8 * spec.layers + 25 + 8 * spec.position_rows) + 64
        held = self.max_blocks if self.ram_blocks is None else min(self.ram_blocks, self.max_blocks)
        vector = spec.layers * spec.heads * spec.head_dim * 4
        blocks = held * most * spec.row_bytes + self.max_blocks * notes
        blocks += min(self.near, self.max_blocks) * most * spec.row_bytes
        return rows * row + blocks + VectorIndex.most(self.max_blocks) * vector
