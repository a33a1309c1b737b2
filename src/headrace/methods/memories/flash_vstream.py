"""Flash-VStream, second generation: a synopsis of the whole stream at low resolution, and key frames in full.

Paper: Flash-VStream: Efficient Real-Time Understanding for Long Video Streams (arXiv 2506.23825, ICCV 2025).
Original: IVGSZ/Flash-VStream, folder Flash-VStream-Qwen (Apache-2.0).

Every unit (a frame, or the pair a tower takes at once) is kept twice. Small, pooled 2x2, it joins a weighted k-means
over time whose K centroids are the synopsis: each stands for as many units as joined it, at their mean time. In full it
is kept if it is the nearest unit of a centroid; the units of the heaviest centroids are the details. A question runs
both through the decoder: details first, heaviest first, then the synopsis in order of time, at positions of their own.

Ours differs: the small picture is pooled from the tokens (the original runs the tower a second time at half the
resolution). A cell whose tokens a compressor dropped is the average of those that are left, or what it showed last.
The bank of full units is bounded. Mean times are true ones; ``times="released"`` has the published code's, which
are means of places in a list. Equal weights: the newer first. What follows pictures stands after them all, also when
they are numbered higher than they have tokens.

``K`` centroids, ``S`` cells of the small grid, ``D`` width, ``J`` deepstack layers, ``P`` position rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from headrace.cache import CacheContext
from headrace.ops.cluster import first_of_each, nearest_rows, spread, weighted_kmeans, weighted_means
from headrace.ops.grid import pool_cells
from headrace.ops.positions import check_policy, resolve_policy
from headrace.protocols import Card, Method
from headrace.types import ModelSpec, Placed, Segment, Span, VisualTokens


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A unit in full: its number in the stream, its tokens, and (S, D) its small picture."""

    number: int
    tokens: VisualTokens
    small: Tensor

    def num_bytes(self) -> int:
        """Bytes of both pictures."""
        return self.tokens.num_bytes() + self.small.numel() * self.small.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """A remembered question and answer, and how many units came before it."""

    after: int
    rows: Segment


@dataclass(frozen=True, slots=True, eq=False)
class FlashVStreamState:
    """The synopsis, the full units, and the turns.

    Attributes:
        axes: P.
        num_units: Units seen.
        centroids: (K, 1+J, S, D) fp32, features and deepstack features, in order of time; None before the first unit.
        weights: (K,) fp64 units each centroid stands for.
        places: (K, 3) fp64 their mean unit number, stream index and time in seconds.
        nearest: Per centroid the number of the full unit nearest to it.
        bank: Full units in order of time.
        last: (1+J, S, D) the newest small picture.
        turns: Oldest first.
    """

    axes: int
    num_units: int
    centroids: Tensor | None
    weights: Tensor
    places: Tensor
    nearest: tuple[int, ...]
    bank: tuple[Unit, ...]
    last: Tensor | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True)
class FlashVStream(Method):
    """Keep a synopsis of the whole stream, and its key frames in full."""

    synopsis: int = 60  # centroids, each a small unit
    details: int = 30  # key units in full, at most one per centroid
    recent: int = 0  # newest units in full beside them; the published memory has none
    start: str = "random"  # first centroids: random: drawn as published; spread: rows far apart
    times: str = "true"  # mean times: true; released: means of places in the list, as in the published live code
    order: str = "published"  # published: details, then synopsis, own positions; time: both by time, as frames
    show: str = "both"  # what a question sees: both, details, synopsis
    bank: str = "bounded"  # full units kept: bounded: candidates for the centroids; all: every one, as published
    seed: int = 0  # of the drawing at start=random
    turn_rows: int = 512  # most rows of remembered questions and answers
    positions: str = "auto"  # repack: contiguous; original: own positions (P = 3) and gaps; auto: as trained

    card: ClassVar[Card] = Card(
        "Flash-VStream (flash memory)",
        paper="https://arxiv.org/abs/2506.23825",
        licence="Apache-2.0",
        differs="small pictures are pooled from the tokens, not a second pass of the tower; the bank is bounded; true"
        " mean times",
    )
    tunable: ClassVar[frozenset[str]] = frozenset({"synopsis", "details", "recent"})
    shorthand: ClassVar[str] = "synopsis"
    kind: ClassVar[str] = "tokens"

    def __post_init__(self) -> None:
        check_policy(self.positions)
        for name, least in (("synopsis", 1), ("details", 0), ("recent", 0), ("seed", 0), ("turn_rows", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be at least {least}, not {getattr(self, name)}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r} is unknown; known: {', '.join(known)}")

    def init(self, spec: ModelSpec) -> FlashVStreamState:
        """Nothing seen."""
        none = torch.empty(0, dtype=torch.float64)
        return FlashVStreamState(spec.position_rows, 0, None, none, none.view(0, 3), (), (), None, ())

    def read(self, state: FlashVStreamState, spec: ModelSpec, *, query: bool) -> CacheContext:
        """Start from nothing; the engine runs ``recall`` first."""
        return CacheContext(spec, [], next_row=0, positions=resolve_policy(self.positions, spec.positions))

    def write(self, state: FlashVStreamState, span: Span) -> FlashVStreamState:
        """Take in a turn, or the units of a step, all at once as published."""
        if span.tokens is None:
            turns = (*state.turns, Turn(state.num_units, span.segment))
            return replace(state, turns=_within(turns, self.turn_rows))
        last, number, new, small = state.last, state.num_units, [], []
        for tokens in span.tokens.split():
            last = pool_cells(tokens, last)
            if last is not None:
                new.append(Unit(number, tokens, last[0]))
                small.append(last)
            number += 1
        state = replace(state, num_units=number, last=last)
        return self._join(state, new, torch.stack(small)) if new else state

    def _join(self, state: FlashVStreamState, new: list[Unit], small: Tensor) -> FlashVStreamState:
        """Add units to the synopsis, cluster it if it is too long, and choose the full units to keep."""
        rows, weights = small.float(), torch.cat((state.weights, torch.ones(len(new), dtype=torch.float64)))
        if state.centroids is not None:
            rows = torch.cat((state.centroids, rows))
        places = torch.cat((state.places, torch.tensor([_place(unit) for unit in new], dtype=torch.float64)))
        bank, nearest = (*state.bank, *new), (*state.nearest, *(unit.number for unit in new))
        if len(rows) > self.synopsis:
            labels, num = self._cluster(rows[:, 0].flatten(1), weights, state.num_units)
            rows, labels = weighted_means(rows, weights.to(rows.device), labels, num), labels.cpu()
            means = weighted_means(places, weights, labels, num)
            if self.times == "released":
                local = torch.arange(len(labels), dtype=torch.float64)[:, None]
                means[:, :1] = weighted_means(local, torch.ones_like(weights), labels, num)
            weights = torch.zeros(num, dtype=torch.float64).index_add_(0, labels, weights)
            order = torch.argsort(means[:, 0].mul(1e6).round(), stable=True)  # equal means: not by their last bit
            rows, weights, places = rows[order.to(rows.device)], weights[order], means[order]
            found = nearest_rows(rows[:, 0].flatten(1), torch.stack([unit.small for unit in bank]).flatten(1))
            nearest = tuple(bank[i].number for i in found.tolist())
        return replace(
            state,
            centroids=rows,
            weights=weights,
            places=places,
            nearest=nearest,
            bank=bank if self.bank == "all" else self._needed(bank, nearest),
        )

    def _cluster(self, rows: Tensor, weights: Tensor, num_units: int) -> tuple[Tensor, int]:
        """Cluster labels (M,) of (M, S*D) rows, and how many clusters there are; equal rows are one at most."""
        first, same = first_of_each(rows)
        if len(first) <= self.synopsis:
            return same, len(first)
        start = self._begin(rows[first], num_units)
        return weighted_kmeans(rows, weights.to(rows.device), start).labels, self.synopsis

    def _begin(self, rows: Tensor, num_units: int) -> Tensor:
        """Choose the first centroids among different rows."""
        if self.start == "spread":
            return rows[spread(rows, self.synopsis)]
        dice = torch.Generator().manual_seed(self.seed * 1_000_003 + num_units)
        return rows[torch.randperm(len(rows), generator=dice)[: self.synopsis].to(rows.device)]

    def _needed(self, bank: tuple[Unit, ...], nearest: tuple[int, ...]) -> tuple[Unit, ...]:
        """Keep what a centroid or ``recent`` needs, and the newest others while there is room."""
        asked = {*nearest, *(unit.number for unit in bank[len(bank) - self.recent :])}
        room = self.synopsis + self.recent - len(asked)
        others = [unit.number for unit in bank if unit.number not in asked]
        asked |= set(others[len(others) - max(room, 0) :])
        return tuple(unit for unit in bank if unit.number in asked)

    def recall(self, state: FlashVStreamState) -> tuple[VisualTokens | Placed | Segment, ...]:
        """Details and synopsis in the chosen order, and the turns between them."""
        details = [] if self.show == "synopsis" else self._details(state)
        synopsis = [] if self.show == "details" else _synopsis(state)
        if self.order == "time":
            once = {unit.number: unit.tokens for unit in details}
            shown = sorted([*((n, 1, x) for n, x in once.items()), *((n, 0, x) for n, x in synopsis)], key=_by_time)
            ends = [sum(number < turn.after for number, _, _ in shown) for turn in state.turns]
            return _between([x for _, _, x in shown], state.turns, ends)
        items: list[VisualTokens | Placed] = [*(x.tokens for x in details), *(x for _, x in synopsis)]
        if state.axes == 3:
            items = [*am_rope([(x.number, x.tokens) for x in details]), *am_rope(synopsis)]
        return _between(items, state.turns, [len(items)] * len(state.turns))

    def _details(self, state: FlashVStreamState) -> list[Unit]:
        """Full units a question sees: all while there are few; then of the heaviest centroids, and the newest."""
        held = {unit.number: unit for unit in state.bank}
        if state.num_units <= self.details:
            return list(held.values())
        order = sorted(range(len(state.nearest)), key=lambda i: (-float(state.weights[i]), -i))
        key = [state.nearest[i] for i in order[: self.details]]
        newest = [number for number in held if number >= state.num_units - self.recent]
        return [held[number] for number in (*key, *(x for x in newest if x not in key))]

    def num_bytes(self, state: FlashVStreamState) -> int:
        """Bytes of everything kept."""
        tensors = [x for x in (state.centroids, state.last, state.weights, state.places) if x is not None]
        kept = sum(x.numel() * x.itemsize for x in tensors) + sum(unit.num_bytes() for unit in state.bank)
        return kept + sum(turn.rows.num_bytes() for turn in state.turns)

    def bound_bytes(self, spec: ModelSpec) -> int | None:
        """Centroids, as many full units, deepstack features included, and the turns; no bound with ``bank="all"``."""
        if self.bank == "all":
            return None
        cells, planes = -(-spec.grid[0] // 2) * -(-spec.grid[1] // 2), 1 + len(spec.taps)
        row = spec.dim * spec.dtype.itemsize
        small = cells * row * planes
        full = spec.grid[0] * spec.grid[1] * (row * planes + 28) + small
        centroids = self.synopsis * (cells * spec.dim * 4 * planes + 32)
        turns = self.turn_rows * (row + 33 + 8 * spec.position_rows)
        return centroids + (self.synopsis + self.recent) * full + small + turns


_CHOICES = {
    "start": ("random", "spread"),
    "times": ("true", "released"),
    "order": ("published", "time"),
    "show": ("both", "details", "synopsis"),
    "bank": ("bounded", "all"),
}


def am_rope(units: list[tuple[float, VisualTokens]]) -> list[Placed]:
    """Place units at (time, row, column), all counted from where the first begins; what follows comes after them all.

    Source: AM-RoPE of the paper. The published code adds the number of tokens of the units on all three axes, and
    numbers of units that outgrow it stand behind what follows.

    Args:
        units: Unit number (rounded here) and tokens of each.

    Returns:
        The units with (3, N) ids relative to the first one's start; the last moves on by the number of their tokens
        before any was dropped, and at least past their last number.
    """
    end = max((sum(x.dense_len for _, x in units), *(1 + _whole(number) for number, _ in units)))
    items = []
    for left, (number, x) in zip(reversed(range(len(units))), units, strict=True):
        ids = torch.stack((torch.full_like(x.row, _whole(number)), x.row, x.col))
        items.append(Placed(x, ids, 0 if left else end))
    return items


def _whole(mean: float) -> int:
    """Round a mean of whole numbers; half to even, and not by its last bit."""
    return round(round(mean, 6))


def _by_time(item: tuple[float, int, VisualTokens]) -> tuple[float, int]:
    return item[:2]


def _place(unit: Unit) -> tuple[float, float, float]:
    return float(unit.number), float(unit.tokens.frames[0]), unit.tokens.times_s[0]


def _synopsis(state: FlashVStreamState) -> list[tuple[float, VisualTokens]]:
    """The centroids as tokens of a small grid, with their mean unit number."""
    if state.centroids is None:
        return []
    like = state.bank[-1].tokens
    grid = (-(-like.grid[0] // 2), -(-like.grid[1] // 2))
    cell = torch.arange(grid[0] * grid[1])
    found = []
    for rows, (number, frame, time_s) in zip(
        state.centroids.to(like.features.dtype), state.places.tolist(), strict=True
    ):
        tokens = VisualTokens(
            features=rows[0],
            frame=torch.zeros_like(cell),
            row=cell // grid[1],
            col=cell % grid[1],
            grid=grid,
            frames=(_whole(frame),),
            times_s=(time_s,),
            deep=rows[1:] if len(rows) > 1 else None,
        )
        found.append((number, tokens))
    return found


def _within(turns: tuple[Turn, ...], budget: int) -> tuple[Turn, ...]:
    """Drop the oldest turns until the rest fit; turns without a unit between them leave together."""
    while sum(len(turn.rows) for turn in turns) > budget:
        turns = tuple(turn for turn in turns if turn.after != turns[0].after)
    return turns


def _between(
    shown: list[VisualTokens | Placed] | list[VisualTokens], turns: tuple[Turn, ...], ends: list[int]
) -> tuple[VisualTokens | Placed | Segment, ...]:
    """Put turns between units, each after ``ends`` of them.

    A turn that came after other units than the one before it was written as following a picture, so there must be one;
    where the units between them are gone, the older turn goes further up.
    """
    at: dict[int, list[Segment]] = {}
    limit, newer = len(shown), -1
    for turn, end in zip(reversed(turns), reversed(ends), strict=True):
        if turn.after != newer:
            limit, newer = min(end, limit) if newer < 0 else min(end, limit - 1), turn.after
        if limit < 1:
            break
        at.setdefault(limit, []).insert(0, turn.rows)
    items: list[VisualTokens | Placed | Segment] = []
    for i, unit in enumerate(shown):
        items += [unit, *at.get(i + 1, ())]
    return tuple(items)
