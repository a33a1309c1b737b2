"""Naive twin of ``video_xl_2``: the explicit mask, row by row, and averages by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headrace.types import Kind, ModelSpec
from reference.naive.attention import attend
from reference.naive.decoder import turn
from reference.naive.rows import Row
from reference.rekv import frames_of, one_softmax

VARIANTS: list[dict[str, Any]] = [
    {"block": 2, "previous": 1, "retrieve": 2, "max_blocks": 30},
    {"block": 1, "previous": 0, "retrieve": 1, "pool": 2, "max_blocks": 9, "ram_blocks": 8, "positions": "original"},
    {"block": 3, "previous": 1, "retrieve": 0, "pooled": "published", "suffix": "published", "timestamps": "published",
     "max_blocks": 12},
]  # fmt: skip
IDENTITY: list[dict[str, Any]] = [{"previous": 100}, {"block": 1, "previous": 1000, "timestamps": "published"}]
REJECTS: dict[str, list[Any]] = {
    "retrieve": [-1],
    "block": [0],
    "previous": [-1],
    "pool": [0],
    "pooled": ["", "rotated"],
    "suffix": ["repack"],
    "timestamps": ["all"],
    "max_blocks": [0],
    "ram_blocks": [-1],
    "positions": ["", "gaps"],
}
WIDE = {torch.float32}  # mean keys
TUNED: dict[str, list[Any]] = {"retrieve": [0, 1, 40], "pool": [1, 2, 40], "max_blocks": [1, 4, 30]}


class Twin:
    """All rows, the frames as lists with the number of their block, and what each row sees."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.method, self.spec = method, spec
        self.policy = spec.positions if method.positions == "auto" else method.positions
        self.rows: list[Row] = []
        self.entries: list[tuple[int, list[int]]] = []
        self.block_of: dict[int, int] = {}
        self.num_sinks = self.count = self.near = 0

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
        if query:
            return self._ask(layer, q, new, mine, keys, values)
        block_of, _ = self._number(new)
        known = {row.arrival: row for row in [*self.rows, *new]}
        kept = {x for _, entry in self.entries for x in entry}
        kept |= {row.arrival for row in known.values() if row.arrival >= self.near or row.kind == Kind.PREFIX}
        outs, weights = [], []
        for i, row in enumerate(mine):
            pairs, window = [], self.spec.windows[layer]
            for other in sorted(keys):
                near = window is None or other > row.arrival - window
                seen = self._sees(row, known[other], block_of) and other in kept
                if other <= row.arrival and near and seen:
                    pairs.append((other, self._place(row), self._place(known[other])))
            o, w = one_softmax(q[:, i], pairs, keys, values, self.spec)
            outs.append(o)
            weights.append(w)
        return torch.stack(outs, 1), weights

    def _sees(self, row: Row, other: Row, block_of: dict[int, int]) -> bool:
        """The mask of the paper: prefix, timestamps, and blocks not too far back."""
        if other.kind in (Kind.PREFIX, Kind.MARKER) or row.kind == Kind.PREFIX:
            return True
        if row.kind == Kind.MARKER and self.method.timestamps == "published":
            return True
        oldest = block_of[row.arrival] - self.method.previous
        return oldest <= 0 or block_of[other.arrival] >= oldest

    def _number(self, new: list[Row]) -> tuple[dict[int, int], int]:
        """Block number of every row, and the frames so far."""
        block_of, count = dict(self.block_of), self.count
        for frame, group in frames_of([row for row in new if row.kind != Kind.PREFIX]) if new else []:
            count += frame >= 0
            for arrival in group:
                block_of[arrival] = max(count - 1, 0) // self.method.block
        return block_of, count

    def _place(self, row: Row) -> tuple[int, ...]:
        return row.ids if self.policy == "original" else (row.arrival,) * self.spec.position_rows

    def write(self, new: list[Row]) -> None:
        """Remember."""
        self.block_of, self.count = self._number(new)
        prefix = sum(row.kind == Kind.PREFIX for row in new)
        self.num_sinks = self.num_sinks or prefix
        self.rows += new
        rest = [row for row in new if row.kind != Kind.PREFIX]
        for _, group in frames_of(rest) if rest else []:
            self.entries.append((self.block_of[group[0]], group))
        most = self.method.max_blocks
        most = most if self.method.ram_blocks is None else min(most, self.method.ram_blocks)
        self.entries = self.entries[max(len(self.entries) - most, 0) :]
        oldest = self.block_of[new[-1].arrival] - self.method.previous if rest else 0
        if oldest > 0:  # frames look back on what begins here, whether questions still find it or not
            self.near = max(self.near, min(x for x, number in self.block_of.items() if number >= oldest))

    def _ask(
        self, layer: int, q: Tensor, new: list[Row], mine: list[Row], keys: dict[int, Tensor], values: dict[int, Tensor]
    ) -> tuple[Tensor, list[dict[int, float]]]:
        first = 1 + max(row.arrival for row in self.rows)
        if new[0].arrival == first:
            self.laid = {**getattr(self, "laid", {}), layer: self._lay_out(layer, q, keys, values)}
            self.tail: dict[int, Row] = {} if layer == 0 else self.tail
        self.tail.update({row.arrival: row for row in new})
        past_k, past_v, arrivals = self.laid[layer]
        short = first - len(arrivals) if self.method.suffix == "published" else 0
        numbers = list(range(len(arrivals))) if short else arrivals
        lowest = min(self.tail[first].ids)
        places = {}
        for arrival, row in self.tail.items():
            ids = tuple(x - (lowest - (first - short)) for x in row.ids) if short else row.ids
            places[arrival] = ids if self.policy == "original" else (arrival - short,) * self.spec.position_rows
        held = [arrival for arrival in sorted(self.tail) if arrival in keys]
        own_k = turn(torch.stack([keys[a] for a in held], 1), [places[a] for a in held], self.spec.rope)
        every_k = torch.cat([past_k, own_k], 1)
        every_v = torch.cat([past_v, torch.stack([values[a] for a in held], 1).double()], 1)
        window = self.spec.windows[layer]
        at = [*numbers, *(arrival - short for arrival in held)]
        sees = torch.tensor(
            [
                [x <= row.arrival - short and (window is None or x > row.arrival - short - window) for x in at]
                for row in mine
            ]
        )
        turned = turn(q, [places[row.arrival] for row in mine], self.spec.rope)
        out, share = attend(turned, every_k, every_v, sees, self.spec.scale)
        weights = [dict(zip([*arrivals, *held], x.mean(0).tolist(), strict=False)) for x in share.transpose(0, 1)]
        return out, weights

    def _lay_out(
        self, layer: int, q: Tensor, keys: dict[int, Tensor], values: dict[int, Tensor]
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Turned keys and values of everything, averaged where a block does not matter, and arrival numbers."""
        dense = self._dense(q, keys)
        known = {row.arrival: row for row in self.rows}
        sinks = [row.arrival for row in self.rows if row.kind == Kind.PREFIX]
        runs = [[x] for x in sinks]
        for number, entry in self.entries:
            for run in self._runs([known[x] for x in entry if x in keys], 1 if number in dense else self.method.pool):
                runs.append([row.arrival for row in run])
        ks, vs, arrivals = [], [], []
        for run in runs:
            own = [x for x in run if x in keys]
            if not own:
                continue
            places = [self._place(known[x]) for x in own]
            middle = tuple(sum(column) / len(own) for column in zip(*places, strict=True))
            plain = torch.stack([keys[x].double() for x in own], 1)
            if self.method.pooled == "published":
                ks.append(turn(plain, places, self.spec.rope).mean(1))
            else:
                ks.append(turn(plain.mean(1, keepdim=True), [middle], self.spec.rope)[:, 0])
            vs.append(torch.stack([values[x].double() for x in own]).mean(0))
            arrivals.append(int(sum(own) / len(own)))
        return torch.stack(ks, 1), torch.stack(vs, 1), arrivals

    @staticmethod
    def _runs(rows: list[Row], size: int) -> list[list[Row]]:
        out: list[list[Row]] = []
        for row in rows:
            last = out[-1] if out else []
            both = last and last[-1].kind == Kind.VISUAL == row.kind and len(last) < size
            if both:
                last.append(row)
            else:
                out.append([row])
        return out

    def _dense(self, q: Tensor, keys: dict[int, Tensor]) -> set[int]:
        """Numbers of the best blocks by mean score of their entries, the first and the last."""
        repeat, scores = self.spec.heads // self.spec.kv_heads, {}
        for number, entry in self.entries:
            held, score = [keys[x] for x in entry if x in keys], 0.0
            for head in range(self.spec.heads if held else 0):
                mean = torch.stack([key[head // repeat].double() for key in held]).mean(0)
                score += float(q[head].double().mean(0) @ mean)
            scores.setdefault(number, []).append(score)
        if not scores:
            return set()
        ranked = sorted(scores, key=lambda number: -sum(scores[number]) / len(scores[number]))
        return {*ranked[: self.method.retrieve], min(scores), max(scores)}
