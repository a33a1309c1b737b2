"""The Context of memories that look blocks up at every step: InfLLM's, frame by frame (or exec block by exec block).

Shape letters: `H` query heads, `G` key/value heads, `D` width, `L` layers, `M` rows that are not in a block yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from headrace.cache.context import CacheContext, Past, Seen
from headrace.cache.fences import Fences
from headrace.cache.index import Found, VectorIndex
from headrace.cache.sealed import frame_ends
from headrace.cache.shelf import Shelf
from headrace.cache.uses import Looked, by_layers
from headrace.cache.witness import Witness
from headrace.ops.attention import KeyGroup, key_mass
from headrace.ops.retrieval import best_chunks, rescaled
from headrace.ops.rope import cos_sin, rotate
from headrace.types import Attention, Early, Kind, LayerSpan, ModelSpec, Segment, Span


@dataclass(frozen=True, slots=True)
class Steps:
    """How a memory looks things up at every step.

    Attributes:
        reach: Rows a query sees at their true distance.
        num_sinks: Rows at the front that are always seen, from afar; -1 for the prefix, which has not come yet.
        retrieve: Blocks a step looks up.
        represent: Rows that stand for a block, per head.
        exec_rows: Rows per step, 0 for a frame (or a turn) at a time.
        released: Rows between blocks and window are seen by all queries of a step, also by those that see them in their
            window (the released code); otherwise by those that do not (the paper).
        per_head: Every query head looks up blocks of its own.
        most_rows: Longest block, in rows.
        near: Blocks per layer of which a copy is kept where the decoder runs.
    """

    reach: int
    num_sinks: int
    retrieve: int
    represent: int
    exec_rows: int
    released: bool
    per_head: bool
    most_rows: int
    near: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Working:
    """One layer's bookkeeping between blocks and window. A value.

    Attributes:
        cut: First row that is neither sink nor in a block.
        scores: (H, M) fp32 attention the rows from ``cut`` on have got so far.
        fresh: First row, row behind the last, and (W,) vector of every block cut by this Context.
        tokens: Their rows that represent them: (H, K) offsets.
        mass: Their (H, R) scores when they were cut.
    """

    cut: int
    scores: Tensor
    fresh: tuple[tuple[int, int, Tensor], ...] = ()
    tokens: tuple[Tensor, ...] = ()
    mass: tuple[Tensor, ...] = ()

    def widened(self, end: int) -> Working:
        """With room for the rows up to ``end``."""
        scores = self.scores.new_zeros(self.scores.shape[0], max(end - self.cut, 0))
        scores[:, : self.scores.shape[1]] = self.scores
        return replace(self, scores=scores)

    def skipped(self, row: int, end: int) -> Working:
        """With room up to ``end``, and the rows before ``row`` taken as sinks."""
        wide, cut = self.widened(end), max(self.cut, row)
        return replace(wide, cut=cut, scores=wide.scores[:, cut - self.cut :])

    def cut_off(self, stop: int, vector: Tensor, tokens: Tensor) -> Working:
        """Make the rows up to ``stop`` a block, known by a vector of the rows ``tokens``."""
        num = stop - self.cut
        return Working(
            stop,
            self.scores[:, num:],
            (*self.fresh, (self.cut, stop, vector)),
            (*self.tokens, tokens),
            (*self.mass, self.scores[:, :num]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What a Context noted for its memory.

    Attributes:
        working: Per layer, after the last step.
        fences: Where blocks end, up to the last row.
        looked: What every step looked up, where there was a choice.
    """

    working: tuple[Working, ...]
    fences: Fences
    looked: tuple[Looked, ...] = ()


def represented(keys: Tensor, rows: Tensor, scores: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Choose the rows that stand for a block, head by head, and average their un-rotated keys.

    Args:
        keys: (G, R, D) un-rotated keys of the block's rows in this layer.
        rows: (R,) their offsets in the block.
        scores: (H, B) accumulated attention of all rows of the block.
        num: Rows to choose per head.

    Returns:
        (H*D,) fp32 vector, zeros where the layer has no row of the block; (H, K) int64 ascending offsets.
    """
    heads = scores.shape[0]
    if not len(rows):
        nothing = torch.zeros(heads * keys.shape[2], dtype=torch.float32, device=keys.device)
        return nothing, torch.empty(heads, 0, dtype=torch.int64)
    own = scores[:, rows.to(scores.device)]
    best = torch.topk(own, min(num, own.shape[1]), dim=1).indices.sort(dim=1).values
    wide = keys.float().repeat_interleave(heads // keys.shape[0], dim=0)
    picked = wide.gather(1, best.to(keys.device)[:, :, None].expand(-1, -1, keys.shape[2]))
    return picked.mean(dim=1).flatten(), rows[best.cpu()]


class StepContext(CacheContext):
    """Attend step by step: a window at true distances; sinks, looked-up blocks and what lies between from afar.

    Source: InfLLM (arXiv 2402.04617). Distant rows are not rotated, and the query stands ``reach - 1`` rows away from
    all of them. Attention that rows get while they wait for their block says which of them stand for it. Blocks are cut
    in here as the steps go, because later steps of the same prompt look them up.

    Args:
        spec: The model.
        sinks: The first rows.
        window: All rows that are in no block, with rotated keys.
        shelf: The blocks.
        index: (H*D,) vectors of the blocks per layer.
        trace: Bookkeeping as the memory left it.
        steps: How to look things up.
        next_row: Arrival number of the first new row.
        positions: ``original`` or ``repack``; see ``CacheContext``.
    """

    reads_queries = True
    by_arrival = True

    def __init__(
        self,
        spec: ModelSpec,
        sinks: Past,
        window: Past,
        *,
        shelf: Shelf,
        index: VectorIndex,
        trace: Trace,
        steps: Steps,
        next_row: int,
        positions: str,
    ) -> None:
        super().__init__(spec, [window], next_row=next_row, positions=positions)
        self._sinks, self._shelf, self._index, self._steps = sinks, shelf, index, steps
        self._working = list(trace.working)
        self._fences = trace.fences
        self._cuts = torch.empty(0, dtype=torch.int64)
        self._found: dict[int, Found] = {}
        self._chosen: dict[tuple[int, int, int], list[Found]] = {}  # by end of step, blocks there were, and clock
        self._witness = Witness()
        far = torch.full((spec.position_rows, 1), steps.reach - 1, dtype=torch.int64)
        self._far = cos_sin(spec.rope, far, dtype=spec.dtype, device=spec.device)
        self.selected: list[list[list[int]]] = []

    def begin(self, segment: Segment) -> None:
        """Decide the positions of the new rows, and where steps and blocks end."""
        start = self._num
        if self._steps.num_sinks < 0:
            self._steps = replace(self._steps, num_sinks=int((segment.kind == Kind.PREFIX).sum()))
        super().begin(segment)
        ends = frame_ends(segment)
        if self._steps.exec_rows:
            ends = ((torch.arange(len(segment)) // self._steps.exec_rows + 1) * self._steps.exec_rows).clamp(
                max=len(segment)
            )
        self._cuts = ends + start
        self._fences = self._fences.extended(
            segment, self._next_row + start, self._steps.num_sinks, self._steps.most_rows
        )

    def angles(self) -> tuple[Tensor, Tensor] | None:
        """None: rows are attended step by step."""
        return None

    def attend(
        self,
        layer: int,
        rows: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        watch: bool = False,
        early: Early | None = None,
    ) -> Tensor:
        """Attend the new rows, one step after the other; see ``protocols.Context``."""
        cos, sin, number = self._left(rows)
        assert q.shape[1] == len(number), "the queries of all rows are wanted"
        new = LayerSpan(k, v, rotate(k, cos, sin), number)
        if not len(self._numbers):  # a frame of which no token is left
            self._tails[layer].append(k, v, new.rotated, number)  # type: ignore[arg-type]
            return q
        turned, outs = rotate(q, cos, sin), []
        step_of = self._cuts[number - int(self._numbers[0])]
        for end in self._cuts.unique().tolist():  # also steps of which a pruner has left no row
            start, stop = (int(torch.searchsorted(step_of, edge)) for edge in (end, end + 1))
            part = LayerSpan(k[:, :stop], v[:, :stop], new.rotated[:, :stop], number[:stop])  # type: ignore[index]
            if start < stop:
                step, last = slice(start, stop), watch and stop == len(number)
                outs.append(self._step(layer, q[:, step], turned[:, step], part, end=end + self._next_row, watch=last))
            self._cut(layer, part, end + self._next_row)
        self._tails[layer].append(k, v, new.rotated, number)  # type: ignore[arg-type]
        return torch.cat(outs, dim=1) if outs else q

    def _step(self, layer: int, q: Tensor, turned: Tensor, new: LayerSpan, *, end: int, watch: bool) -> Tensor:
        """Attend the last U rows of ``new``; ``end`` is the arrival number behind the step."""
        number = new.rows[-q.shape[1] :]
        earlier = self._cuts[self._cuts < end - self._next_row]
        begin = int(earlier.max() if len(earlier) else self._numbers[0]) + self._next_row
        near = [*self._seen(layer, turned, number), *self._new(layer, turned, new)]
        far_q = self._far_query(q)
        far = self._distant(layer, q=far_q, new=new, begin=begin, end=end)
        out, lse = self._joined(layer, turned, [*near, *far])
        if watch:
            self._witness = self._witness.note(*self._mass_of(turned[:, -1:], [*near, *far]), self._spec.layers)
        self._score(layer, turned, near, lse, end)
        return out

    def _window(self, layer: int) -> int | None:
        own = super()._window(layer)
        return self._steps.reach if own is None else min(own, self._steps.reach)

    def _far_query(self, q: Tensor) -> Tensor:
        """(H, U, D) queries at the far end of the window."""
        num = q.shape[1]
        return rotate(q, self._far[0].expand(num, -1), self._far[1].expand(num, -1))

    def _distant(self, layer: int, *, q: Tensor, new: LayerSpan, begin: int, end: int) -> list[Seen]:
        """Looked-up blocks, sinks, and rows beyond the window that are in no block yet; keys un-rotated."""
        own, steps = self._spec.windows[layer], self._steps
        if own is not None and own < steps.reach:
            return []
        scaling, number = self._spec.rope.scaling, new.rows[-q.shape[1] :] + self._next_row
        seen = self._looked_up(layer, q, new, end)
        num_sinks = min(max(begin - steps.reach, 0), steps.num_sinks)
        between = (self._working[layer].cut, max(end - steps.reach, self._working[layer].cut))
        for (start, stop), hidden in (((0, num_sinks), False), (between, not steps.released)):
            keys, values, rows = self._rows(layer, new, start, stop)
            if not len(rows):
                continue
            mask = number[:, None] - rows[None] >= steps.reach
            if hidden and not bool(mask.any()):
                continue
            shown = None if not hidden or bool(mask.all()) else mask.to(q.device)
            seen.append(Seen(KeyGroup(keys * scaling, values, shown, q=q), rows, 0))
        return seen

    def _looked_up(self, layer: int, q: Tensor, new: LayerSpan, end: int) -> list[Seen]:
        """The blocks whose vectors agree most with the mean far query."""
        fresh = self._working[layer].fresh
        vectors = torch.cat([self._index.vectors(layer), *(vector[None] for _, _, vector in fresh)])
        if not len(vectors) or not self._steps.retrieve:
            self._found[layer] = Found(self._shelf.ids[:0], torch.empty(0, dtype=torch.float32))
            self.selected.append([[]])
            return []
        units = q.shape[0] if self._steps.per_head else 1
        products = torch.einsum("buw,uw->ub", vectors.view(len(vectors), units, -1), q.float().mean(1).view(units, -1))
        products = products.cpu()  # read back once
        places = [best_chunks(scores, self._steps.retrieve) for scores in products]
        self.selected.append([x.tolist() for x in places])
        num_old = len(self._shelf)
        worth = torch.stack([rescaled(scores) for scores in products]).mean(0)
        union = torch.cat(places).unique()
        names = torch.cat((self._shelf.ids, self._shelf.next_id + torch.arange(len(fresh))))
        step = (end, len(names), self._shelf.next_id + len(fresh))
        self._chosen[step] = [*self._chosen.get(step, []), Found(names[union], worth[union])]
        union = union[union < num_old]
        self._found[layer] = Found(self._shelf.ids[union], worth[union])
        old = self._shelf.near.bring(layer, self._shelf.take(union), self._spec.device, self._steps.near)
        copies = dict(zip(union.tolist(), old, strict=True))
        parts = [[self._block(layer, new, place, copies) for place in unit.tolist()] for unit in places]
        if units == 1:
            keys, values, rows = (torch.cat([part[i] for part in parts[0]], -1 if i == 2 else 1) for i in range(3))
            return [Seen(KeyGroup(keys * self._spec.rope.scaling, values, q=q), rows, 0)] if len(rows) else []
        return self._by_head(q, parts)

    def _by_head(self, q: Tensor, parts: Sequence[Sequence[tuple[Tensor, Tensor, Tensor]]]) -> list[Seen]:
        """One group of (H, S, D) keys, every head with the rows of its own blocks; short ones are filled and hidden."""
        heads, kv_heads = q.shape[0], self._spec.kv_heads
        sizes = [sum(len(part[2]) for part in unit) for unit in parts]
        most, width = max(sizes), q.shape[2]
        if not most:
            return []
        keys = torch.zeros(heads, most, width, dtype=q.dtype, device=q.device)
        values = torch.zeros_like(keys)
        for head, unit in enumerate(parts):
            kv = head // (heads // kv_heads)
            for room, side in ((keys, 0), (values, 1)):
                room[head, : sizes[head]] = torch.cat([part[side][kv] for part in unit])
        scale, rows = self._spec.rope.scaling, torch.full((heads, most), -1)
        for head, unit in enumerate(parts):
            rows[head, : sizes[head]] = torch.cat([part[2] for part in unit])
        mask = None
        if min(sizes) < most:
            mask = (rows >= 0)[:, None].expand(-1, q.shape[1], -1).to(q.device)
        return [Seen(KeyGroup(keys * scale, values, mask, q=q), rows.clamp(min=0), 0)]

    def _block(
        self, layer: int, new: LayerSpan, place: int, copies: Mapping[int, tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and arrival numbers of a block, from the shelf or cut in here."""
        if place < len(self._shelf):
            block = self._shelf.blocks[place]
            return (*copies[place], block.offsets[layer] + block.first_row)
        start, stop, _ = self._working[layer].fresh[place - len(self._shelf)]
        return self._rows(layer, new, start, stop)

    def _rows(self, layer: int, new: LayerSpan, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Un-rotated keys, values and arrival numbers of the rows ``start..stop`` wherever they stand."""
        places: list[tuple[Tensor, Tensor, Tensor]] = []
        if start < stop:
            first = self._past[0].rows.first
            places += [(run.keys, run.values, run.rows) for run in self._sinks.layers[layer] if start < first]
            places += [(run.keys, run.values, run.rows) for run in self._past[0].layers[layer]]
            if len(self._tails[layer]):
                tail = self._tails[layer].span()
                places.append((tail.keys, tail.values, tail.rows + self._next_row))
            places.append((new.keys, new.values, new.rows + self._next_row))
        keys, values, rows, done = [new.keys[:, :0]], [new.values[:, :0]], [new.rows[:0]], start
        for k, v, number in places:
            low, high = (int(torch.searchsorted(number.contiguous(), row)) for row in (done, stop))
            if low < high:
                keys.append(k[:, low:high])
                values.append(v[:, low:high])
                rows.append(number[low:high])
                done = int(number[high - 1]) + 1
        return torch.cat(keys, 1), torch.cat(values, 1), torch.cat(rows)

    def _score(self, layer: int, q: Tensor, near: Sequence[Seen], lse: Tensor, end: int) -> None:
        """Add the attention of this step to the rows that wait for their block."""
        work = self._working[layer].widened(end)
        scores = work.scores
        for part in near:
            rows = part.rows + part.offset - work.cut
            waits = torch.nonzero(rows >= 0).squeeze(1)
            mass = key_mass(q, part.group, lse, scale=self._spec.scale)
            scores.index_add_(1, rows[waits].to(q.device), mass.index_select(1, waits.to(q.device)))
        self._working[layer] = replace(work, scores=scores)

    def _cut(self, layer: int, new: LayerSpan, end: int) -> None:
        """Cut blocks off the front of what waits, as long as a window's worth of rows stays."""
        work = self._working[layer].skipped(min(max(end - self._steps.reach, 0), self._steps.num_sinks), end)
        while (stop := self._fences.next(work.cut)) is not None and end - stop >= self._steps.reach:
            if work.cut < self._steps.num_sinks:
                break
            keys, _, rows = self._rows(layer, new, work.cut, stop)
            mass = work.scores[:, : stop - work.cut]
            work = work.cut_off(stop, *represented(keys, rows - work.cut, mass, self._steps.represent))
        self._working[layer] = work

    def attention(self) -> Attention | None:
        """How much the last watched row looked at every row, mean over layers, and what its step looked up."""
        if not self._witness.looked:
            return None
        return self._witness.attention(
            [self._sinks.rows, self._past[0].rows], self._shelf, self._segments, self._next_row, self._found.values()
        )

    def fork(self) -> Self:
        """The same past and rows so far, for another prompt; see ``protocols.Context``."""
        twin = super().fork()
        twin._working, twin._found, twin._chosen = list(self._working), dict(self._found), dict(self._chosen)
        twin.selected = list(self.selected)
        return twin

    def finish(self) -> Span:
        """Hand over the rows of the tail, and the bookkeeping."""
        looked: list[Looked] = []
        for (_, num_blocks, clock), found in sorted(self._chosen.items(), key=lambda step: step[0]):
            looked += by_layers(found, num_blocks, self._spec.layers, clock)
        return self._with_trace(Trace(tuple(self._working), self._fences, tuple(looked)))
