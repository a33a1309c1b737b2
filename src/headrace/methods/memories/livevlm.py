"""LiveVLM: recent frames whole, older ones thinned by what newer frames look at, pages of them looked up by a question.

Paper: LiveVLM: Efficient Online Video Understanding via Streaming-Oriented KV Cache and Retrieval (arXiv 2505.15269).
Original: sjtu-zhao-lab/LiveVLM (licence unknown; its code was not read).

The newest frames are kept whole. When they leave, the rows that left and what was kept of older ones compete: the
newest frame's queries say how much each is looked at (no text is involved), the best ones stay in any case, and the
others are taken from the top as long as their stretch of the stream has room (vision sink bucketing), so that no part
of the past is left without a row. A question sees prefix, newest frames, and those pages of kept rows whose mean key
agrees with its queries, at positions that count from 0 (position-agnostic retrieval).

Ours differs: what the sources leave open is chosen: all rows that leave compete (newlines and turns too), scores are
means over heads and taken anew at every thinning, kept sets are per layer, stretches are cut from the stream's own
positions, and pages are looked up only once something was forgotten.

Shape letters: `C` rows that compete, `S` rows kept, `H` query heads, `G` key/value heads, `D` width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from headrace.cache import AskContext, Found, KVCache, Layout, Past, Seen, Strand
from headrace.cache.context import windowed
from headrace.cache.pages import own_copy
from headrace.cache.sealed import cut_blocks, frame_rows
from headrace.ops.attention import KeyGroup, attention_mass
from headrace.ops.positions import check_policy, resolve_policy
from headrace.ops.retrieval import rescaled
from headrace.ops.rope import cos_sin, rotate
from headrace.protocols import Card, Method
from headrace.types import Attention, Kind, ModelSpec, Retrieved, Segment, Span, VisualTokens


def bucketed(scores: Tensor, position: Tensor, buckets: int, room: int, sinks: int) -> Tensor:
    """Choose rows by vision sink bucketing.

    Args:
        scores: (C,) how much each row is looked at.
        position: (C,) int64 ascending positions in the stream, from 0.
        buckets: Equal stretches the positions are cut into.
        room: Rows per stretch.
        sinks: Rows that stay in any case.

    Returns:
        (K,) int64 ascending places of the chosen rows, K <= buckets * room.
    """
    num, most = len(scores), buckets * room
    if num <= most:
        return torch.arange(num)
    order = torch.argsort(scores, descending=True, stable=True)
    bucket = (position * buckets // (int(position[-1]) + 1))[order]
    by_bucket = torch.argsort(bucket, stable=True)
    starts = torch.searchsorted(bucket[by_bucket].contiguous(), bucket[by_bucket].contiguous())
    rank = torch.empty_like(bucket)
    rank[by_bucket] = torch.arange(num) - starts
    stays = (rank < room) | (torch.arange(num) < sinks)
    return order[stays][:most].sort().values


def best_pages(keys: Tensor, q: Tensor, size: int, share: float, scale: float) -> tuple[Tensor, Tensor]:
    """Choose pages of neighbouring rows by the attention a question pays to their mean keys.

    Args:
        keys: (G, S, D) un-rotated keys of the kept rows.
        q: (H, T, D) un-rotated queries.
        size: Rows per page; the last may be shorter.
        share: Share of the pages to choose, 0..1; at least one page, unless it is 0.
        scale: Factor on the logits.

    Returns:
        (K,) int64 ascending numbers of the pages, and (pages,) fp32 attention of all.
    """
    means = torch.stack([page.float().mean(dim=1) for page in keys.split(size, dim=1)], dim=1)
    (mass,) = attention_mass(q.float(), [KeyGroup(means, means)], scale=scale)
    mass = mass.cpu()
    num = max(round(share * len(mass)), 1) if share else 0
    return torch.topk(mass, num).indices.sort().values, mass


class PageContext(AskContext):
    """Frames see prefix, kept rows and newest frames; a question prefix, its pages, and newest frames."""

    by_arrival = True

    def __init__(
        self,
        spec: ModelSpec,
        past: tuple[Past, Past],
        strands: tuple[Strand, ...],
        method: LiveVLM,
        *,
        looks: bool,
        query: bool,
    ) -> None:
        policy = resolve_policy(method.positions, spec.positions)
        super().__init__(spec, list(past), next_row=max(past[1].rows.stop, past[0].rows.stop), positions=policy)
        self._strands, self._method, self._looks = strands, method, looks
        self._queries: list[Tensor] = [torch.empty(0, dtype=torch.float32)] * spec.layers
        self._start_asking(query=query)

    def _seen(self, layer: int, q: Tensor, number: Tensor) -> list[Seen]:
        seen, strand = super()._seen(layer, q, number), self._strands[layer]
        window = self._spec.windows[layer]
        group = windowed(strand.rotated, strand.values, strand.rows, number + self._next_row, window)
        return seen if group is None or not len(strand.rows) else [*seen, Seen(group, strand.rows, 0)]

    def _new(self, layer: int, q: Tensor, new: Any) -> list[Seen]:
        if not self._asked:  # what the newest frame looks with
            assert self._angles is not None
            at = new.rows[-q.shape[1] :] - int(self._numbers[0])
            watching = torch.nonzero(self._segments[-1].frame[at] == self._segments[-1].frame.max()).squeeze(1)
            cos, sin = (x[at[watching]] for x in self._angles)
            self._queries[layer] = rotate(q.index_select(1, watching.to(q.device)), cos, sin)
        return super()._new(layer, q, new)

    def _lay_out(self, layer: int, q: Tensor) -> Layout:
        strand, method = self._strands[layer], self._method
        num = len(strand.rows)
        size = min(method.page, max(num, 1))
        pages, mass = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float32)
        if num:
            pages, mass = best_pages(strand.keys, q, size, method.retrieve if self._looks else 1.0, self._spec.scale)
        at = (pages[:, None] * size + torch.arange(size)).flatten()
        at = at[at < num]
        parts = [[(run.keys, run.values, run.rows, part) for run in part.layers[layer]] for part in self._past]
        kept = (strand.keys[:, at], strand.values[:, at], strand.rows[at])
        first, near = parts
        empty = (strand.keys[:, :0], strand.values[:, :0], strand.rows[:0])
        pieces = [empty, *(run[:3] for run in first), kept, *(run[:3] for run in near)]
        keys, values, arrival = (torch.cat([piece[i] for piece in pieces], -1 if i == 2 else 1) for i in range(3))
        number = torch.arange(len(arrival))
        if self._positions == "repack":
            place, shift_ids = number.expand(self._spec.position_rows, -1), 0
        else:
            ids = [strand.ids[:, :0]]
            for group, more in ((first, strand.ids[:, at]), (near, strand.ids[:, :0])):
                ids += [part.rows.column("ids")[:, rows - part.rows.first] for _, _, rows, part in group]
                ids.append(more)
            place, shift_ids = torch.cat(ids, 1), 0
        cos, sin = cos_sin(self._spec.rope, place, dtype=self._spec.dtype, device=self._spec.device)
        return Layout(
            Found(pages, rescaled(mass)[pages]),
            rotate(keys, cos, sin),
            values,
            arrival,
            number,
            self._next_row - len(number),
            shift_ids,
        )

    def _note(self, q: Tensor, seen: Any) -> None:
        self._witness = self._witness.note(*self._mass_of(q, seen), self._spec.layers)

    def attention(self) -> Attention | None:
        """How much the last watched row looked at every row, mean over layers, and which frames' pages were read."""
        if not self._witness.looked:
            return None
        chosen: dict[int, float] = {}
        worth: dict[int, float] = {}
        known: list[tuple[Tensor, Tensor, Tensor]] = [(s.rows, s.frame, s.time_s) for s in self._strands]
        for layer, layout in self._layouts.items():
            strand, size = self._strands[layer], self._method.page
            for page, score in zip(layout.found.ids.tolist(), layout.found.scores.tolist(), strict=True):
                for frame in strand.frame[page * size : (page + 1) * size].unique().tolist():
                    worth[frame] = max(worth.get(frame, 0.0), score)
            inside = torch.isin(strand.rows, layout.arrival)
            for frame in strand.frame[inside].unique().tolist():
                chosen[frame] = chosen.get(frame, 0.0) + 1 / len(self._layouts)
        frames = sorted(chosen)
        looked = Retrieved(
            torch.tensor(frames, dtype=torch.int64),
            torch.tensor([chosen[frame] for frame in frames], dtype=torch.float32),
            torch.tensor([worth.get(frame, 0.0) for frame in frames], dtype=torch.float32),
        )
        tables = [part.rows for part in self._past]
        return self._witness.of_rows(tables, known, self._segments, self._next_row, looked if self._layouts else None)

    def finish(self) -> Span:
        """Hand over the rows of the tail, and the queries of the newest frame."""
        return self._with_trace(tuple(self._queries))


@dataclass(slots=True)
class LiveVLMState:
    """What is kept of the past.

    Attributes:
        sinks: The text prefix.
        near: Newest frames, whole, with rotated keys.
        strands: Per layer what is kept of older frames.
        ends: Where the frames of ``near`` end, with the turns behind them, ascending arrival numbers.
        thinned: Something has been forgotten.
        queries: Per layer (H, U, D) rotated queries of the newest frame, none before the first.
    """

    sinks: KVCache
    near: KVCache
    strands: tuple[Strand, ...]
    ends: tuple[int, ...] = ()
    thinned: bool = False
    queries: tuple[Tensor, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LiveVLM(Method):
    """Keep recent frames whole, thin older ones, look pages of them up."""

    rows: int = 12000  # most rows kept of older frames, per layer
    bucket: int = 1  # kept rows per stretch of the stream
    salient: float = 0.25  # share of the kept rows that stays whatever its stretch holds
    frames: int = 32  # newest frames, kept whole; a turn goes with the frame before it, a long one counts as frames
    advance: int = 8  # frames that stop being whole together
    page: int = 16  # kept rows per page
    retrieve: float = 0.4  # share of the pages a question looks up
    positions: str = "auto"  # repack: as published; original: ids of the stream, also for questions; auto: as trained

    card: ClassVar[Card] = Card(
        "LiveVLM",
        paper="https://arxiv.org/abs/2505.15269",
        licence="unknown",
        differs="open points chosen: all leaving rows compete, kept sets per layer, stretches of the whole stream",
    )
    tunable: ClassVar[frozenset[str]] = frozenset({"frames", "retrieve", "rows"})
    digests: ClassVar[bool] = True
    shorthand: ClassVar[str] = "rows"
    kind: ClassVar[str] = "kv"

    def __post_init__(self) -> None:
        check_policy(self.positions)
        for name in ("rows", "bucket", "frames", "advance", "page"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, not {getattr(self, name)}")
        for name in ("salient", "retrieve"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be from 0 to 1, not {getattr(self, name)}")

    def init(self, spec: ModelSpec) -> LiveVLMState:
        """Nothing seen."""
        return LiveVLMState(
            KVCache(spec, block_rows=64), KVCache(spec, block_rows=1024), (Strand.empty(spec),) * spec.layers
        )

    def one_by_one(self) -> bool:
        """Frames of a step come in turn: each finds what the one before it has left."""
        return True

    def read(self, state: LiveVLMState, spec: ModelSpec, *, query: bool) -> PageContext:
        """See prefix, what is kept, and the newest frames."""
        past = (
            Past(state.sinks.snapshot(), state.sinks.table.view()),
            Past(state.near.snapshot(), state.near.table.view()),
        )
        return PageContext(spec, past, state.strands, self, looks=state.thinned, query=query)

    def write(self, state: LiveVLMState, span: Span) -> LiveVLMState:
        """Append to the newest frames; thin those that leave together with what was kept before."""
        prefix = int((span.segment.kind == Kind.PREFIX).sum()) if not state.sinks.table.stop else 0
        if prefix:
            state.sinks.append(span.cut(0, prefix))
            state.near = KVCache(state.near.spec, block_rows=1024, first_row=prefix)
            span = span.cut(prefix, len(span.segment)) if prefix < len(span.segment) else span
            if prefix == len(span.segment):
                return state
        first = state.near.table.stop
        state.near.append(span)
        if span.trace and span.trace[0].numel():  # a turn has none
            state.queries = tuple(own_copy(x) for x in span.trace)
        begins = (state.near.table.first, *state.ends)
        state.ends = _ended(begins, span.segment, first, frame_rows(state.near.spec))
        if len(state.ends) >= self.frames + self.advance:
            num = len(state.ends) - self.frames
            self._thin(state, state.ends[num - 1])
            state.ends = state.ends[num:]
        return state

    def _thin(self, state: LiveVLMState, stop: int) -> None:
        """Let the rows before ``stop`` compete with what was kept, layer by layer."""
        view, strands = state.near.table.view(), []
        for layer, strand in enumerate(state.strands):
            runs = [run.within(view.first, stop) for run in state.near.runs(layer)]
            rows = torch.cat([strand.rows, *(run.rows for run in runs)])
            leaving = rows[len(strand.rows) :] - view.first
            keys, values, rotated = (
                torch.cat([getattr(strand, side), *(getattr(run, side) for run in runs)], 1)
                for side in ("keys", "values", "rotated")
            )
            ids, frame, time_s = (
                torch.cat([getattr(strand, name), view.column(name)[..., leaving]], -1)
                for name in ("ids", "frame", "time_s")
            )
            every = Strand(keys, values, rotated, rows, ids, frame, time_s)
            scores = torch.zeros(len(rows), dtype=torch.float32)
            if state.queries and len(rows):
                queries, scale = state.queries[layer], state.near.spec.scale
                (mass,) = attention_mass(queries, [KeyGroup(rotated, values)], scale=scale)
                scores = mass.cpu()
            buckets = max(self.rows // self.bucket, 1)
            position = rows - state.sinks.table.stop
            kept = bucketed(scores, position, buckets, min(self.bucket, self.rows), round(self.salient * self.rows))
            state.thinned = state.thinned or len(kept) < len(rows)
            strands.append(every.take(kept))
        state.strands = tuple(strands)
        state.near.evict_before(stop)

    def recall(self, state: LiveVLMState) -> tuple[VisualTokens | Segment, ...]:
        """Nothing to run again."""
        return ()

    def num_bytes(self, state: LiveVLMState) -> int:
        """Bytes of prefix, newest frames, kept rows, and the newest frame's queries."""
        looking = sum(x.numel() * x.itemsize for x in state.queries)
        return state.sinks.num_bytes() + state.near.num_bytes() + sum(x.num_bytes() for x in state.strands) + looking

    def bound_bytes(self, spec: ModelSpec) -> int:
        """Prefix, frames that wait, and kept rows, all with rotated keys; the newest frame's queries."""
        most = frame_rows(spec)
        near = (self.frames + self.advance + 1) * 2 * most + 2048 + spec.prefix_rows + 64
        note = 24 + 8 * spec.position_rows
        row = spec.row_bytes * 3 // 2 + note * spec.layers
        looking = spec.layers * spec.heads * most * spec.head_dim * spec.dtype.itemsize
        return (near + self.rows) * row + (3 * 4096 + near) * (21 + 8 * spec.position_rows) + looking


def _ended(edges: tuple[int, ...], segment: Segment, first: int, most: int) -> tuple[int, ...]:
    """Where frames end once new rows have come.

    A turn goes with the frame before it, so that talking makes no frame leave, as long as both have no more rows than
    two frames may have; what is longer counts as a frame, so that what is kept whole stays bounded.

    Args:
        edges: Where the oldest begins, and where they ended before.
        segment: T new rows.
        first: Arrival number of the first.
        most: Most rows of a frame.
    """
    cuts = [first + stop for _, stop in cut_blocks(segment, 0, most)]
    talks = not bool((segment.frame >= 0).any())
    if talks and cuts and len(edges) > 1 and cuts[0] - edges[-2] <= 2 * most:
        edges = edges[:-1]
    return (*edges[1:], *cuts)
