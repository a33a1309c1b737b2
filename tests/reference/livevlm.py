"""Naive twin of ``livevlm``: one list of rows; a layer that gave a row up has no key of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from headrace.types import Kind, ModelSpec
from reference.naive.decoder import turn
from reference.naive.rows import Row
from reference.rekv import frames_of, one_softmax

VARIANTS: list[dict[str, Any]] = [
    {"rows": 12, "frames": 3, "advance": 2, "page": 2},
    {"rows": 10, "bucket": 3, "frames": 1, "advance": 1, "page": 3, "retrieve": 0.5, "positions": "original"},
    {"rows": 5, "salient": 1.0, "frames": 2, "advance": 3, "page": 16, "positions": "repack"},
]
IDENTITY: list[dict[str, Any]] = [{}, {"frames": 1, "advance": 1, "rows": 100_000, "page": 1}]
REJECTS: dict[str, list[Any]] = {
    "rows": [0],
    "bucket": [0],
    "salient": [-0.1, 1.1],
    "frames": [0],
    "advance": [0],
    "page": [0],
    "retrieve": [-0.1, 1.5],
    "positions": ["", "gaps"],
}
TUNED: dict[str, list[Any]] = {"frames": [1, 3, 6], "retrieve": [0.0, 0.3, 1.0], "rows": [4, 9, 40]}


class Twin:
    """Rows with their keys per layer, and the frames that are still whole."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.method, self.spec = method, spec
        self.policy = spec.positions if method.positions == "auto" else method.positions
        self.rows: list[Row] = []
        self.whole: list[list[int]] = []
        self.num_sinks = 0
        self.thinned = False
        self.looking: dict[int, Tensor] = {}

    def attend(
        self,
        layer: int,
        q: Tensor,
        new: list[Row],
        mine: list[Row],
        keys: dict[int, Tensor],
        values: dict[int, Tensor],
        *,
        query: bool,
    ) -> tuple[Tensor, list[dict[int, float]]]:
        """Attend the (H, T, D) un-rotated queries of the rows ``mine``; see ``rekv``."""
        known = {row.arrival: row for row in [*self.rows, *new]}
        if query:
            first = 1 + max(row.arrival for row in self.rows)
            self.tail = {} if new[0].arrival == first and layer == 0 else self.tail
            self.tail.update({row.arrival: row for row in new})
            if new[0].arrival == first:
                self.seen = {**getattr(self, "seen", {}), layer: self._pages(layer, q, keys)}
            order = [*self.seen[layer], *sorted(self.tail)]
            known.update(self.tail)
        else:
            order = sorted(keys)
            newest = max(row.frame for row in new)
            at = [i for i, row in enumerate(mine) if row.frame == newest]
            places = [self._place(mine[i], mine[i].arrival) for i in at]
            self.looking[layer] = turn(q[:, at], places, self.spec.rope)
        number = {arrival: i if query else arrival for i, arrival in enumerate(order)}
        outs, weights = [], []
        for i, row in enumerate(mine):
            pairs, window = [], self.spec.windows[layer]
            for other in order:
                near = window is None or number[other] > number[row.arrival] - window
                if other in keys and other <= row.arrival and near:
                    place = self._place(row, number[row.arrival]), self._place(known[other], number[other])
                    pairs.append((other, *place))
            o, w = one_softmax(q[:, i], pairs, keys, values, self.spec)
            outs.append(o)
            weights.append(w)
        return torch.stack(outs, 1), weights

    def _place(self, row: Row, number: int) -> tuple[int, ...]:
        return row.ids if self.policy == "original" else (number,) * self.spec.position_rows

    def _pages(self, layer: int, q: Tensor, keys: dict[int, Tensor]) -> list[int]:
        """Prefix, the pages a question looks at most, and whole frames, as arrival numbers."""
        whole = [x for frame in self.whole for x in frame if x in keys]
        sinks = [row.arrival for row in self.rows if row.arrival < self.num_sinks and row.arrival in keys]
        held = [row.arrival for row in self.rows if row.keys[layer] is not None]
        kept = [x for x in held if x not in whole and x >= self.num_sinks]
        pages = [kept[i : i + self.method.page] for i in range(0, len(kept), self.method.page)]
        mass = [0.0] * len(pages)
        for head in range(self.spec.heads):
            kv = head // (self.spec.heads // self.spec.kv_heads)
            means = [torch.stack([keys[x][kv].double() for x in page]).mean(0) for page in pages]
            for i in range(q.shape[1]):
                powers = [math.exp(float(q[head, i].double() @ mean) * self.spec.scale) for mean in means]
                mass = [old + power / sum(powers) for old, power in zip(mass, powers, strict=True)]
        share = self.method.retrieve if self.thinned else 1.0
        num = min(max(round(share * len(pages)), 1), len(pages)) if share else 0
        best = sorted(sorted(range(len(pages)), key=lambda i: -mass[i])[:num])
        return [*sinks, *(x for i in best for x in pages[i]), *whole]

    def write(self, new: list[Row]) -> None:
        """Remember; when enough frames have gathered, let the oldest compete with what was kept."""
        if not self.rows:
            self.num_sinks = sum(row.kind == Kind.PREFIX for row in new)
        self.rows += new
        rest = [row for row in new if row.arrival >= self.num_sinks]
        most = max(16, self.spec.around_rows) + self.spec.grid[0] * self.spec.grid[1]
        for frame, group in frames_of(rest) if rest else []:
            if frame < 0 and self.whole and len(self.whole[-1]) + len(group[:most]) <= 2 * most:
                self.whole[-1] += group[:most]
                group = group[most:]
            self.whole += [group[i : i + most] for i in range(0, len(group), most)]
        if len(self.whole) >= self.method.frames + self.method.advance:
            left = self.whole[: -self.method.frames]
            self.whole = self.whole[-self.method.frames :]
            stop = left[-1][-1] + 1
            for layer in range(self.spec.layers):
                self._thin(layer, stop)

    def _thin(self, layer: int, stop: int) -> None:
        held = [row for row in self.rows if row.keys[layer] is not None]
        rivals = [row for row in held if self.num_sinks <= row.arrival < stop]
        scores = self._scores(layer, rivals)
        most = max(self.method.rows // self.method.bucket, 1) * min(self.method.bucket, self.method.rows)
        if len(rivals) > most:
            self.thinned = True
            positions = [row.arrival - self.num_sinks for row in rivals]
            kept = pick(scores, positions, self.method)
            gone = {row.arrival for i, row in enumerate(rivals) if i not in kept}
            self.rows = [without(row, layer) if row.arrival in gone else row for row in self.rows]

    def _scores(self, layer: int, rivals: list[Row]) -> list[float]:
        """Attention of the newest frame's queries, mean over heads and rows."""
        looking, scores = self.looking[layer], [0.0] * len(rivals)
        for head in range(self.spec.heads):
            kv = head // (self.spec.heads // self.spec.kv_heads)
            turned = [
                turn(row.keys[layer][kv][None, None], [self._place(row, row.arrival)], self.spec.rope)[0, 0]
                for row in rivals
            ]
            for i in range(looking.shape[1]):
                powers = [math.exp(float(looking[head, i] @ key) * self.spec.scale) for key in turned]
                scores = [old + power / sum(powers) for old, power in zip(scores, powers, strict=True)]
        return scores


def pick(scores: list[float], positions: list[int], method: Any) -> set[int]:
    """Vision sink bucketing, row after row as the card tells it."""
    buckets, room = max(method.rows // method.bucket, 1), min(method.bucket, method.rows)
    length, most = positions[-1] + 1, buckets * room
    held: dict[int, int] = {}
    kept: set[int] = set()
    for rank, i in enumerate(sorted(range(len(scores)), key=lambda i: -scores[i])):
        bucket = positions[i] * buckets // length
        if len(kept) < most and (rank < round(method.salient * method.rows) or held.get(bucket, 0) < room):
            held[bucket] = held.get(bucket, 0) + 1
            kept.add(i)
    return kept


def without(row: Row, layer: int) -> Row:
    """A row that one layer has given up."""
    keys = tuple(None if i == layer else x for i, x in enumerate(row.keys))
    values = tuple(None if i == layer else x for i, x in enumerate(row.values))
    return replace(row, keys=keys, values=values)
