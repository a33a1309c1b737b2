"""Video-XL-2: frames in blocks that see a few blocks back; a question reads some densely, the rest sparsely.

Paper: Video-XL-2: Towards Very Long-Video Understanding Through Task-Aware KV Sparsification (arXiv 2506.19225).
Original: VectorSpaceLab/Video-XL (licence of the code not stated in what was read).

Frames come in blocks. A frame sees the text prefix, its own block, a few blocks before it, and all timestamps; so its
cost is flat. Everything is stored. For a question the blocks that matter most to it, the first and the last stay as
they are; of all others the visual rows are averaged in runs along the sequence, and the question reads the lot in the
order of the stream (bi-level KV).

Ours differs: windows instead of one large mask; the relevance comes from a retriever instead of a file made beforehand;
keys are averaged un-rotated and rotated at their mean position, and the question goes on at its own position, unless
``pooled`` or ``suffix`` say ``published``; timestamps see what frames see unless ``timestamps`` says ``published``
(there they see everything, which is not flat); the trained token synthesis before the decoder is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, ClassVar

import torch
from torch import Tensor

from headrace.cache import AskContext, Disk, Found, KVCache, Layout, Limits, MeanKeys, Past, Sealed, Seen, Shelf, Strand
from headrace.cache.index import VectorIndex
from headrace.cache.sealed import around_rows, cut_blocks, frame_rows
from headrace.cache.strand import joined
from headrace.cache.witness import retrieved
from headrace.ops.attention import KeyGroup
from headrace.ops.positions import check_policy, resolve_policy
from headrace.ops.rope import cos_sin, rotate
from headrace.ops.runs import averaged, runs_of
from headrace.protocols import Card, Method
from headrace.types import Attention, Kind, LayerSpan, ModelSpec, Segment, Span, VisualTokens

TOGETHER = 32  # blocks that are averaged in one go


@dataclass(slots=True)
class VideoXL2State:
    """What is kept of the past.

    Attributes:
        sinks: The text prefix.
        window: The blocks that the next frame may see, with rotated keys.
        marks: Per layer the timestamps before the window.
        shelf: Everything behind the prefix, frame by frame.
        numbers: (B,) int64 number of the block that each entry of the shelf belongs to.
        retriever: What says which blocks matter.
        index: Its state.
        starts: First row of the newest blocks, by number, ascending.
        count: Frames so far.
    """

    sinks: KVCache
    window: KVCache
    marks: tuple[Strand, ...]
    shelf: Shelf
    numbers: Tensor
    retriever: Any
    index: Any
    starts: tuple[tuple[int, int], ...] = ()
    count: int = 0


class BilevelContext(AskContext):
    """Frames see prefix, timestamps and a few blocks; a question everything, part of it averaged."""

    by_arrival = True

    def __init__(self, spec: ModelSpec, state: VideoXL2State, method: VideoXL2, *, query: bool) -> None:
        sinks, window = (Past(x.snapshot(), x.table.view()) for x in (state.sinks, state.window))
        policy = resolve_policy(method.positions, spec.positions)
        super().__init__(spec, [sinks, window], next_row=max(window.rows.stop, sinks.rows.stop), positions=policy)
        self._marks, self._shelf, self._numbers_of = state.marks, state.shelf, state.numbers
        self._retriever, self._index, self._method = state.retriever, state.index, method
        self._starts, self._count = state.starts, state.count
        self._from = self._kinds = torch.empty(0, dtype=torch.int64)
        self._given: Found | None = None
        self._start_asking(query=query)

    def begin(self, segment: Segment) -> None:
        """Decide positions, and how far back each row sees."""
        first = self._next_row + self._num
        super().begin(segment)
        self._starts, self._count, sees = _blocks(segment, first, self._starts, self._count, self._method)
        self._from = torch.cat((self._from, sees))
        self._kinds = torch.cat((self._kinds, segment.kind.long()))

    def _masked(self, layer: int, keys: Tensor, marked: Tensor, number: Tensor) -> Tensor:
        """(T, S) who sees whom: rows ``number`` of this prompt, keys by arrival number."""
        arrival, window = number[:, None] + self._next_row, self._spec.windows[layer]
        sees = (keys[None] >= self._from[number, None]) | marked[None]
        if self._method.timestamps == "published":
            sees |= (self._kinds[number] == Kind.MARKER)[:, None]
        sees &= keys[None] <= arrival
        return sees if window is None else sees & (keys[None] > arrival - window)

    def _add(self, seen: list[Seen], keys: Tensor, values: Tensor, rows: Tensor, mask: Tensor) -> None:
        if mask.numel() and bool(mask.any()):
            shown = None if bool(mask.all()) else mask.to(keys.device)
            seen.append(Seen(KeyGroup(keys, values, shown), rows, 0))

    def _seen(self, layer: int, q: Tensor, number: Tensor) -> list[Seen]:
        seen: list[Seen] = []
        sinks, window = self._past
        for run in sinks.layers[layer]:
            always = torch.ones(len(run), dtype=torch.bool)
            self._add(seen, run.rotated, run.values, run.rows, self._masked(layer, run.rows, always, number))
        marks = self._marks[layer]
        always = torch.ones(len(marks.rows), dtype=torch.bool)
        self._add(seen, marks.rotated, marks.values, marks.rows, self._masked(layer, marks.rows, always, number))
        kinds = window.rows.column("kind")
        for run in window.layers[layer]:
            marked = kinds[run.rows - window.rows.first] == Kind.MARKER
            self._add(seen, run.rotated, run.values, run.rows, self._masked(layer, run.rows, marked, number))
        if self._method.timestamps == "published" and bool((self._kinds[number] == Kind.MARKER).any()):
            self._everything(layer, seen, number)
        if len(self._tails[layer]):
            tail = self._tails[layer].span()
            assert tail.rotated is not None
            rows, marked = tail.rows + self._next_row, self._kinds[tail.rows] == Kind.MARKER
            self._add(seen, tail.rotated, tail.values, rows, self._masked(layer, rows, marked, number))
        return seen

    def _everything(self, layer: int, seen: list[Seen], number: Tensor) -> None:
        """Blocks before the window, for timestamps alone."""
        window = self._past[1].rows
        for block in self._shelf.blocks:
            if block.first_row >= window.first:
                break
            keys, values, rows, ids, kind = _parts(block, layer)
            at = (kind != Kind.MARKER) & (rows < window.first)
            place = rows.expand(self._spec.position_rows, -1) if self._positions == "repack" else ids
            cos, sin = cos_sin(self._spec.rope, place[:, at], dtype=self._spec.dtype, device=self._spec.device)
            mask = self._masked(layer, rows[at], torch.zeros(int(at.sum()), dtype=torch.bool), number)
            self._add(seen, rotate(keys[:, at], cos, sin), values[:, at], rows[at], mask)

    def _new(self, layer: int, q: Tensor, new: LayerSpan) -> list[Seen]:
        number = new.rows[-q.shape[1] :]
        if self._asked or int(self._from[number].max()) <= int(new.rows[0]) + self._next_row:
            return super()._new(layer, q, new)
        assert new.rotated is not None
        rows, marked = new.rows + self._next_row, self._kinds[new.rows] == Kind.MARKER
        mask = self._masked(layer, rows, marked, number)
        return [Seen(KeyGroup(new.rotated, new.values, mask.to(q.device)), rows, 0)]

    def _give(self, words: Tensor) -> None:
        if not self._retriever.per_layer:
            self._given = self._retriever.select(self._index, None, words, len(self._shelf))

    def _lay_out(self, layer: int, q: Tensor) -> Layout:
        every = self._given or self._retriever.select(self._index, layer, q, len(self._shelf))
        dense, worth = self._dense(every)
        method, spec = self._method, self._spec
        rooms: tuple[list[Tensor], ...] = ([], [], [])
        for part in _pieces(self._past[0], layer):
            self._piece(part, None, rooms)
        for whole, stretch in groupby(zip(dense.tolist(), self._shelf.blocks, strict=True), key=itemgetter(0)):
            while parts := [_parts(block, layer) for _, block in islice(stretch, TOGETHER)]:
                part = tuple(torch.cat(x, -2 if x[0].is_floating_point() else -1) for x in zip(*parts, strict=True))
                lengths = [len(rows) for _, _, rows, _, _ in parts]
                run = None if whole else runs_of(part[4] == Kind.VISUAL, method.pool, lengths)
                self._piece(part, run, rooms)
        empty = torch.empty(spec.kv_heads, 0, spec.head_dim, dtype=spec.dtype, device=spec.device)
        rotated, values = (torch.cat([empty, *room], 1) for room in rooms[:2])
        rows = torch.cat([torch.empty(0, dtype=torch.float64), *rooms[2]])
        short = self._next_row - len(rows) if method.suffix == "published" else 0
        found = Found(every.ids[dense], worth[dense])
        number = rows.long() if not short else torch.arange(len(rows))
        return Layout(found, rotated, values, rows.long(), number, short, self._gap(short))

    def _gap(self, short: int) -> int:
        """The same in canonical ids: the published suffix begins at the number of rows before it."""
        return int(self._segments[0].ids.min()) - (self._next_row - short) if short else 0

    def _dense(self, every: Found) -> tuple[Tensor, Tensor]:
        """(B,) bool entries of the shelf that stay as they are, and (B,) what their block is worth."""
        numbers = self._numbers_of
        if not len(numbers):
            return numbers.bool(), every.scores
        names, slot = torch.unique(numbers, return_inverse=True)
        total = torch.zeros(len(names), dtype=torch.float32).index_add_(0, slot, every.scores)
        worth = total / torch.bincount(slot)
        best = names[torch.topk(worth, min(self._method.retrieve, len(names))).indices]
        ends = torch.stack((names[0], names[-1]))
        return torch.isin(numbers, torch.cat((best, ends))), worth[slot]

    def _piece(self, part: tuple[Tensor, ...], run: Tensor | None, rooms: tuple[list[Tensor], ...]) -> None:
        """Add rows to a layout, averaged in runs or as they are."""
        keys, values, rows, ids, _ = part
        place = (rows.expand(self._spec.position_rows, -1) if self._positions == "repack" else ids).double()
        arrival, spec = rows.double(), self._spec

        def turned(x: Tensor, at: Tensor) -> Tensor:
            return rotate(x, *cos_sin(spec.rope, at, dtype=spec.dtype, device=spec.device))

        if run is None or not len(rows):
            rotated = turned(keys, place)
        else:
            middle = averaged(place[:, :, None], run)[..., 0]
            published = self._method.pooled == "published"
            rotated = averaged(turned(keys, place), run) if published else turned(averaged(keys, run), middle)
            values, arrival = averaged(values, run), averaged(arrival[:, None], run)[:, 0]
        for room, x in zip(rooms, (rotated, values, arrival), strict=True):
            room.append(x)

    def _note(self, q: Tensor, seen: Any) -> None:
        self._witness = self._witness.note(*self._mass_of(q, seen), self._spec.layers)

    def attention(self) -> Attention | None:
        """How much the last watched row looked at every row, mean over layers, and which blocks it read densely."""
        if not self._witness.looked:
            return None
        found = [layout.found for layout in self._layouts.values()]
        known = [(x.rows, x.frame, x.time_s) for x in self._marks]
        for block in self._shelf.blocks if found else ():
            rows = torch.arange(block.first_row, block.stop_row)
            known.append((rows, block.notes.frame, block.notes.time_s))
        looked = retrieved(self._shelf, found) if found else None
        return self._witness.of_rows([part.rows for part in self._past], known, self._segments, self._next_row, looked)

    def finish(self) -> Span:
        """Hand over the rows of the tail, and what was read densely."""
        return self._with_trace(self._looked(self._shelf))


@dataclass(frozen=True, kw_only=True)
class VideoXL2(Method):
    """Blocks that see a few blocks back; a question reads some densely, the rest averaged."""

    retrieve: int = 8  # blocks a question reads as they are, beside the first and the last
    block: int = 4  # frames per block
    previous: int = 3  # blocks a frame sees before its own
    pool: int = 4  # visual rows that are averaged into one in all other blocks
    pooled: str = "unrotated"  # keys are averaged before their rotation; published: after it
    suffix: str = "original"  # a question stands at its own position; published: at the number of rows before it
    timestamps: str = "window"  # timestamps see what frames see; published: everything before them
    max_blocks: int = 2000  # frames kept for questions; the oldest leave; what a frame looks back on stays anyway
    ram_blocks: int | None = None  # newest of these that stay in memory, the others go to the disk; None: all
    positions: str = "auto"  # repack: arrivals; original: ids with gaps where tokens were dropped; auto: as trained

    card: ClassVar[Card] = Card(
        "Video-XL-2",
        paper="https://arxiv.org/abs/2506.19225",
        licence="unknown",
        differs="windows instead of a mask; a retriever says what matters; keys averaged un-rotated; positions go on",
    )
    tunable: ClassVar[frozenset[str]] = frozenset({"retrieve", "pool", "max_blocks"})
    shorthand: ClassVar[str] = "retrieve"
    kind: ClassVar[str] = "kv"
    retriever: ClassVar[str] = "rekv_internal"
    digests: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_policy(self.positions)
        for name, least in (("retrieve", 0), ("block", 1), ("previous", 0), ("pool", 1), ("max_blocks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be at least {least}, not {getattr(self, name)}")
        if self.ram_blocks is not None and self.ram_blocks < 0:
            raise ValueError(f"ram_blocks: must be 0 or more, not {self.ram_blocks}")
        for name, ours in (("pooled", "unrotated"), ("suffix", "original"), ("timestamps", "window")):
            if getattr(self, name) not in (ours, "published"):
                raise ValueError(f"{name}: {getattr(self, name)!r} is unknown; known: {ours}, published")

    def init(self, spec: ModelSpec, retriever: Any = None) -> VideoXL2State:
        """Nothing seen; without a retriever, mean keys."""
        retriever = MeanKeys() if retriever is None else retriever
        marks = (Strand.empty(spec),) * spec.layers
        numbers, index = torch.empty(0, dtype=torch.int64), retriever.init(spec)
        caches = KVCache(spec, block_rows=64), KVCache(spec, block_rows=1024)
        return VideoXL2State(*caches, marks, Shelf(), numbers, retriever, index)

    def house(self, state: VideoXL2State, disk: Disk) -> VideoXL2State:
        """Let blocks that do not fit in memory go to a disk."""
        state.shelf = replace(state.shelf, disk=disk)
        return state

    def one_by_one(self) -> bool:
        """Frames of a step come in turn: each finds what the one before it has left."""
        return True

    def read(self, state: VideoXL2State, spec: ModelSpec, *, query: bool) -> BilevelContext:
        """Frames see a few blocks; a question everything, part of it averaged."""
        return BilevelContext(spec, state, self, query=query)

    def write(self, state: VideoXL2State, span: Span) -> VideoXL2State:
        """Append to the window, seal every frame, let leave what no frame will see, and what long turns push out."""
        prefix = 0 if state.sinks.table.stop else int((span.segment.kind == Kind.PREFIX).sum())
        if prefix:
            state.sinks.append(span.cut(0, prefix))
            state.window = KVCache(state.window.spec, block_rows=1024, first_row=prefix)
        if prefix == len(span.segment):  # or a frame of which no token is left
            return state
        span = span.cut(prefix, len(span.segment)) if prefix else span
        first, seg = state.window.table.stop, span.segment
        spec, numbers = state.window.spec, []
        state.window.append(span)
        state.starts, state.count, sees = _blocks(seg, first, state.starts, state.count, self)
        rows = state.window.table.view()
        for start, stop in cut_blocks(seg, 0, frame_rows(spec)):
            block = Sealed.seal(span.layers, rows.within(first + start, first + stop), start)
            state.index = state.retriever.add(state.index, state.shelf.next_id, block, seg.embeds[start:stop])
            state.shelf = state.shelf.add(block)
            numbers.append(_number(state.starts, first + start))
        state.numbers = torch.cat((state.numbers, torch.tensor(numbers, dtype=torch.int64)))
        state.starts = state.starts[-self.previous - 2 :]
        self._leave(state, max(int(sees[-1]), state.window.table.stop - self._most_near(spec)))
        shelf = state.shelf.looked_up(span.trace or ())
        shelf, gone = shelf.settled(Limits(self.max_blocks, self.ram_blocks), state.window.table.first)
        if len(gone):
            state.numbers = state.numbers[~torch.isin(state.shelf.ids, gone)]
            state.index = state.retriever.drop(state.index, gone)
            state.marks = tuple(marks.take(shelf.holds(marks.rows)) for marks in state.marks)
        state.shelf = shelf
        return state

    def _most_near(self, spec: ModelSpec) -> int:
        """Rows of the window at most: the blocks that a frame may see, and as much text as a few frames' worth."""
        return (self.block * (self.previous + 2) + 1) * frame_rows(spec)

    def _leave(self, state: VideoXL2State, row: int) -> None:
        """Take the rows before ``row`` out of the window; timestamps of frames that are kept stay."""
        view = state.window.table.view()
        if row <= view.first:
            return
        kinds, marks = view.column("kind"), []
        columns = [view.column(name) for name in ("ids", "frame", "time_s")]
        for layer, strand in enumerate(state.marks):
            parts = [strand]
            for run in (run.within(view.first, row) for run in state.window.runs(layer)):
                at = run.rows - view.first
                kept = (kinds[at] == Kind.MARKER) & state.shelf.holds(run.rows)
                ids, frame, time_s = (x[..., at] for x in columns)
                parts.append(Strand(run.keys, run.values, run.rotated, run.rows, ids, frame, time_s).take(kept))
            marks.append(joined(parts))
        state.marks = tuple(marks)
        state.window.evict_before(row)

    def recall(self, state: VideoXL2State) -> tuple[VisualTokens | Segment, ...]:
        """Nothing to run again."""
        return ()

    def num_bytes(self, state: VideoXL2State) -> int:
        """Bytes of prefix, window, timestamps, blocks and what they are found by."""
        kept = state.sinks.num_bytes() + state.window.num_bytes() + state.shelf.num_bytes() + 8 * len(state.numbers)
        return kept + sum(x.num_bytes() for x in state.marks) + int(state.index.num_bytes())

    def bound_bytes(self, spec: ModelSpec) -> int:
        """Window with rotated keys, ``max_blocks`` frames, their timestamps and vectors."""
        most = frame_rows(spec)
        near = self._most_near(spec) + 2048 + spec.prefix_rows + 64
        note = 25 + 8 * spec.position_rows
        rows = near * (spec.row_bytes * 3 // 2 + 8 * spec.layers) + (3 * 4096 + near) * note
        held = self.max_blocks if self.ram_blocks is None else min(self.ram_blocks, self.max_blocks)
        marks = self.max_blocks * around_rows(spec) * (spec.row_bytes * 3 // 2 + note * spec.layers)
        notes = self.max_blocks * (most * (8 * spec.layers + note) + 72)
        vector = max(spec.layers * spec.kv_heads * spec.head_dim, spec.dim) * 4
        return rows + held * most * spec.row_bytes + marks + notes + VectorIndex.most(self.max_blocks) * vector


def _blocks(
    segment: Segment, first: int, starts: tuple[tuple[int, int], ...], count: int, method: VideoXL2
) -> tuple[tuple[tuple[int, int], ...], int, Tensor]:
    """Count the frames of new rows.

    Returns:
        First rows of blocks by number, frames so far, and (T,) int64 the first row each new row sees.
    """
    sees = torch.zeros(len(segment), dtype=torch.int64)
    skip = int((segment.kind == Kind.PREFIX).sum())
    for start, stop in cut_blocks(segment, skip, len(segment) + 1):
        if bool((segment.frame[start:stop] >= 0).any()):
            if not starts or starts[-1][0] < count // method.block:
                starts = (*starts, (count // method.block, first + start))
            count += 1
        oldest = max(count - 1, 0) // method.block - method.previous
        sees[start:stop] = min((row for number, row in starts if number >= oldest), default=0) if oldest > 0 else 0
    return starts, count, sees


def _number(starts: tuple[tuple[int, int], ...], row: int) -> int:
    """The block a row belongs to."""
    return max((number for number, first in starts if first <= row), default=0)


def _pieces(past: Past, layer: int) -> list[tuple[Tensor, ...]]:
    """Keys, values, arrival numbers, ids and kinds of a part of the past."""
    ids, kinds, first = past.rows.column("ids"), past.rows.column("kind"), past.rows.first
    return [(x.keys, x.values, x.rows, ids[:, x.rows - first], kinds[x.rows - first]) for x in past.layers[layer]]


def _parts(block: Sealed, layer: int) -> tuple[Tensor, ...]:
    """Keys, values, arrival numbers, ids and kinds of a sealed block."""
    at, notes = block.offsets[layer], block.notes
    return (*block.layer(layer), at + block.first_row, notes.ids[:, at], notes.kind[at])
