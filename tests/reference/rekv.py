"""Naive twin of ``rekv``: lists of rows; every query row gathers what it may see and takes one softmax."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor

from headrace.types import Kind, ModelSpec
from reference.naive.decoder import turn
from reference.naive.rows import Row

VARIANTS: list[dict[str, Any]] = [
    {"window": 9, "retrieve": 2, "max_blocks": 31},
    {"window": 1, "sinks": 0, "retrieve": 3, "max_blocks": 9, "ram_blocks": 5},
    {"window": 6, "sinks": 8, "retrieve": 1, "recent": 2, "positions": "repack", "max_blocks": 8},
    {"window": 4, "sinks": 2, "retrieve": 50, "positions": "original", "max_blocks": 30},
]
OUTSIDE = {"narrow": "unit/test_rekv_infllm.py"}
IDENTITY: list[dict[str, Any]] = [{"window": 100_000}, {"window": 100_000, "sinks": 0, "retrieve": 100_000}]
REJECTS: dict[str, list[Any]] = {
    "retrieve": [-1],
    "window": [0, -1],
    "sinks": [-1],
    "recent": [-1],
    "max_blocks": [0],
    "ram_blocks": [-1],
    "positions": ["", "gaps", "Repack"],
}
TUNED: dict[str, list[Any]] = {"retrieve": [0, 1, 40], "max_blocks": [1, 4, 30]}
WIDE = {torch.float32}  # what blocks are found by: mean keys and scores


class Twin:
    """All rows ever written, the blocks as lists of arrival numbers, and which of them are left."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.method, self.spec = method, spec
        self.policy = spec.positions if method.positions == "auto" else method.positions
        self.axes = spec.position_rows
        self.rows: list[Row] = []
        self.blocks: list[list[int]] = []
        self.num_sinks: int | None = None
        self.chosen: dict[int, list[list[int]]] = {}

    def write(self, new: list[Row]) -> None:
        """Remember the rows; one block per frame, text with the frame behind it."""
        if self.num_sinks is None:
            prefix = sum(row.kind == Kind.PREFIX for row in new)
            self.num_sinks = prefix if self.method.sinks is None else self.method.sinks
        self.rows += new
        fresh = [row.arrival for row in new if row.arrival >= self.num_sinks]
        most = self.spec.grid[0] * self.spec.grid[1] + max(16, self.spec.around_rows)
        for _, group in frames_of(new):
            block = [arrival for arrival in group if arrival in fresh]
            self.blocks += [block[i : i + most] for i in range(0, len(block), most)]
        most = self.method.max_blocks
        if self.method.ram_blocks is not None:  # there is no disk here
            most = min(most, self.method.ram_blocks)
        self.blocks = self.blocks[len(self.blocks) - min(most, len(self.blocks)) :]

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
        """Attend the (H, T, D) un-rotated queries of the new rows ``mine``.

        Args:
            layer: Decoder layer.
            q: Queries.
            new: The rows of the step.
            mine: Those of them that are left; a question's earlier rows are in ``keys`` behind all that was written.
            keys: (G, D) un-rotated key of every row the layer has, by arrival number; the new rows included.
            values: The same for values.
            query: A question.
        """
        known = {row.arrival: row for row in [*self.rows, *new]}
        if query:
            return self._ask(layer, q, mine, keys, values)
        out, weights = [], []
        ends = {arrival: group[-1] + 1 for _, group in frames_of(new) for arrival in group}
        for i, row in enumerate(mine):
            pairs = []
            for other in sorted(keys):
                window = self.spec.windows[layer]
                reach = self.method.window if window is None else min(window, self.method.window)
                if other <= row.arrival < other + reach:
                    pairs.append((other, self._place(row), self._place(known[other])))
                far = window is None or window >= self.method.window
                if far and other < (self.num_sinks or 0) and other < ends[row.arrival] - self.method.window:
                    pairs.append((other, (self.method.window - 1,) * self.axes, (0,) * self.axes))
            o, w = one_softmax(q[:, i], pairs, keys, values, self.spec)
            out.append(o)
            weights.append(w)
        return torch.stack(out, 1), weights

    def _place(self, row: Row) -> tuple[int, ...]:
        return row.ids if self.policy == "original" else (row.arrival,) * self.axes

    def _ask(
        self, layer: int, q: Tensor, mine: list[Row], keys: dict[int, Tensor], values: dict[int, Tensor]
    ) -> tuple[Tensor, list[dict[int, float]]]:
        first_new = 1 + max(row.arrival for row in self.rows)
        if mine[0].arrival == first_new:
            self.chosen[layer] = self._choose(layer, q, keys)
            self.tail: dict[int, Row] = {}
        self.tail = {**self.tail, **{row.arrival: row for row in mine}}
        sinks = [row.arrival for row in self.rows if row.arrival < (self.num_sinks or 0)]
        groups = [sinks, *self.chosen[layer], sorted(self.tail)]
        number, place = self._layout(groups)
        out, weights = [], []
        for i, row in enumerate(mine):
            pairs = []
            for other in number:
                window = self.spec.windows[layer]
                near = window is None or number[other] > number[row.arrival] - window
                if other in keys and other <= row.arrival and near:
                    pairs.append((other, place[row.arrival], place[other]))
            o, w = one_softmax(q[:, i], pairs, keys, values, self.spec)
            out.append(o)
            weights.append(w)
        return torch.stack(out, 1), weights

    def _choose(self, layer: int, q: Tensor, keys: dict[int, Tensor]) -> list[list[int]]:
        """The blocks with the largest product of mean query and mean key, and the newest."""
        heads, repeat = q.shape[0], q.shape[0] // self.spec.kv_heads
        scores = []
        for block in self.blocks:
            held = [keys[arrival] for arrival in block if arrival in keys]
            score = 0.0
            for head in range(heads):
                if held:
                    mean = torch.stack([key[head // repeat].double() for key in held]).mean(0)
                    score += float(q[head].double().mean(0) @ mean)
            scores.append(score)
        ranked = sorted(range(len(scores)), key=lambda i: -scores[i])[: self.method.retrieve]
        newest = range(max(0, len(scores) - self.method.recent), len(scores)) if self.method.recent else []
        return [self.blocks[i] for i in sorted({*ranked, *newest})]

    def _layout(self, groups: list[list[int]]) -> tuple[dict[int, int], dict[int, tuple[int, ...]]]:
        """Row numbers and places when the gaps between groups are closed; neighbours keep their distance.

        Frames of one clip share rows and columns: only their times close up.
        """
        known = {**{row.arrival: row for row in self.rows}, **self.tail}
        number: dict[int, int] = {}
        place: dict[int, tuple[int, ...]] = {}
        shift_rows, shift = 0, [0] * self.axes
        before, top, highs = -1, -1, [-1] * self.axes
        for group in groups:
            if not group:
                continue
            every = [[known[arrival].ids[axis] for arrival in group] for axis in range(self.axes)]
            base, follows = min(min(ids) for ids in every), group[0] == before + 1
            shift_rows += group[0] - before - 1
            if any(min(every[axis]) <= highs[axis] for axis in range(1, self.axes)):  # a clip goes on
                if not follows and min(every[0]) > highs[0]:
                    shift[0] += min(every[0]) - highs[0] - 1
            elif not follows:
                shift = [base - top - 1] * self.axes
                shift[0] += min(every[0]) - base
            elif len(set(shift)) > 1:
                shift = [base - top - max(base - max(highs), 1)] * self.axes
            for arrival in group:
                number[arrival] = arrival - shift_rows
                ids = tuple(x - down for x, down in zip(known[arrival].ids, shift, strict=True))
                place[arrival] = ids if self.policy == "original" else (number[arrival],) * self.axes
            before, highs = group[-1], [max(ids) for ids in every]
            top = max(top, *(high - down for high, down in zip(highs, shift, strict=True)))
        return number, place


def frames_of(rows: list[Row]) -> list[tuple[int, list[int]]]:
    """Cut the rows of a step into frames: text goes with the frame behind it, or with the last one."""
    shown = [row.frame for row in rows if row.frame >= 0]
    groups: list[tuple[int, list[int]]] = []
    waiting: list[int] = []
    for row in rows:
        if row.frame < 0 and shown:
            waiting.append(row.arrival)
            continue
        if groups and groups[-1][0] == row.frame:
            groups[-1][1].extend([*waiting, row.arrival])
        else:
            groups.append((row.frame, [*waiting, row.arrival]))
        waiting = []
    if waiting:
        groups[-1][1].extend(waiting)
    return groups


Pair = tuple[int, tuple[int, ...], tuple[int, ...]]


def one_softmax(
    q: Tensor, pairs: list[Pair], keys: dict[int, Tensor], values: dict[int, Tensor], spec: ModelSpec
) -> tuple[Tensor, dict[int, float]]:
    """One query row against (row, place of the query, place of the key) triples; a row may come twice.

    Returns:
        (H, D) outputs, and the share of every row, mean over heads.
    """
    outs, mass = [], {arrival: 0.0 for arrival, _, _ in pairs}
    for head in range(q.shape[0]):
        out, shares = head_softmax(head, q[head], pairs, keys, values, spec)
        outs.append(out)
        for (arrival, _, _), share in zip(pairs, shares, strict=True):
            mass[arrival] += share / q.shape[0]
    return torch.stack(outs), mass


def head_softmax(
    head: int, q: Tensor, pairs: list[Pair], keys: dict[int, Tensor], values: dict[int, Tensor], spec: ModelSpec
) -> tuple[Tensor, list[float]]:
    """The same for one head's (D,) query: (D,) output, and the share of every pair."""
    kv = head // (spec.heads // spec.kv_heads)
    mine = turn(q.expand(1, len(pairs), -1), [place for _, place, _ in pairs], spec.rope)[0]
    its = turn(torch.stack([keys[arrival][kv] for arrival, _, _ in pairs])[None], [p for _, _, p in pairs], spec.rope)[
        0
    ]
    logits = [float(a @ b) * spec.scale for a, b in zip(mine, its, strict=True)]
    powers = [math.exp(x - max(logits)) for x in logits]
    shares = [power / sum(powers) for power in powers]
    seen = torch.stack([values[arrival][kv].double() for arrival, _, _ in pairs])
    return torch.tensor(shares, dtype=torch.float64) @ seen, shares


def golden(tensors: dict[str, Tensor], settings: dict[str, str]) -> str:
    """Compare with the published attention manager: encoding, block vectors, retrieval and its context."""
    from reference.golden import close, equal
    from reference.naive.driven import one_layer, rows_of

    values = json.loads(settings["settings"])
    spec = one_layer(values)
    from headrace.methods.memories.rekv import ReKV
    from headrace.methods.retrievers.rekv_internal import ReKVInternal

    block, sinks = values["block"], values["n_init"]
    method = ReKV(retrieve=values["topk"], window=values["n_local"], sinks=sinks, positions="repack")
    state, outs, at = method.init(spec, ReKVInternal(chunk=values["chunk_size"])), [], 0
    for num in values["appends"]:
        context = method.read(state, spec, query=False)
        context.begin(rows_of(at, num, lambda row: (row - sinks) // block if row >= sinks else -1))
        part = slice(at, at + num)
        outs.append(context.attend(0, None, *(tensors[name][:, part] for name in "qkv")))
        state, at = method.write(state, context.finish()), at + num
    heads, kv_heads = values["heads"], values["kv_heads"]
    vectors = state.index.vectors(0).view(len(state.shelf), kv_heads, 1, -1)
    vectors = vectors.expand(-1, -1, heads // kv_heads, -1).flatten(1)
    said = [
        close("attention_out", torch.cat(outs, 1), tensors["attention_out"]),
        close("block_vectors", vectors, tensors["block_vectors"]),
    ]
    for number in range(sum(name.endswith(".blocks") for name in tensors)):
        asked = {
            name: tensors[f"question{number}.{name}"] for name in ("q", "blocks", "logits", "context_k", "context_v")
        }
        context = method.read(state, spec, query=True)
        context.begin(rows_of(at, asked["q"].shape[1], lambda _: -1, text=True))
        context.attend(0, None, asked["q"], *(tensors[name][:, : asked["q"].shape[1]] for name in "kv"))
        found = context.found(0)
        equal(f"question{number}.blocks", found.ids, asked["blocks"])
        pairs = [(run.keys, run.values) for run in state.sinks.runs(0)]
        pairs += [block.layer(0) for block in state.shelf.take(state.shelf.find(found.ids))]
        for side, name in enumerate(("context_k", "context_v")):
            close(f"question{number}.{name}", torch.cat([pair[side] for pair in pairs], 1), asked[name])
        whole = vectors @ asked["q"].float().mean(1).flatten()
        close(f"question{number}.logits", whole, asked["logits"])
    return ", ".join([*said, "questions equal"])
