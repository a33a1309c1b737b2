"""Naive twin of ``infllm``: lists of rows per layer; every query row of every step takes one softmax by hand."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headrace.types import Kind, ModelSpec
from reference.naive.decoder import turn
from reference.naive.rows import Row
from reference.rekv import Pair, frames_of, head_softmax

VARIANTS: list[dict[str, Any]] = [
    {"window": 9, "retrieve": 2, "max_blocks": 31},
    {"window": 6, "retrieve": 3, "sinks": 8, "block": 4, "exec_rows": 7, "max_blocks": 9, "remainder": "released"},
    {"window": 5, "retrieve": 2, "per_head": True, "represent": 2, "positions": "original", "max_blocks": 30},
    {"window": 7, "retrieve": 2, "max_blocks": 8, "ram_blocks": 3, "near": 0},
]
OUTSIDE = {"narrow": "unit/test_rekv_infllm.py"}
IDENTITY: list[dict[str, Any]] = [{"window": 100_000}, {"window": 100_000, "sinks": 0, "exec_rows": 2, "block": 3}]
REJECTS: dict[str, list[Any]] = {
    "retrieve": [-1],
    "window": [0, -1],
    "sinks": [-1],
    "block": [0],
    "exec_rows": [0],
    "represent": [0],
    "remainder": ["", "card"],
    "max_blocks": [0],
    "ram_blocks": [-1],
    "near": [-1],
    "positions": ["", "gaps", "Repack"],
}
TUNED: dict[str, list[Any]] = {"retrieve": [0, 1, 40], "max_blocks": [1, 4, 30], "near": [0, 1, 40]}
WIDE = {torch.float32}  # what blocks are found by: mean keys and scores


@dataclass
class Layer:
    """One layer's past: where blocks end so far, attention per waiting row and head, blocks and their vectors."""

    cut: int = 0
    scores: dict[int, list[float]] = field(default_factory=dict)
    waiting: list[list[int]] = field(default_factory=list)
    talking: bool = False
    blocks: list[list[int]] = field(default_factory=list)
    vectors: list[Tensor] = field(default_factory=list)


class Twin:
    """All rows ever written, and a ``Layer`` per layer; a question works on a copy."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.method, self.spec = method, spec
        self.policy = spec.positions if method.positions == "auto" else method.positions
        self.rows: list[Row] = []
        self.num_sinks = -1 if method.sinks is None else method.sinks
        self.layers = [Layer() for _ in range(spec.layers)]
        self.asked: list[Layer] = []
        self.far = (method.window - 1,) * spec.position_rows
        self.zero = (0,) * spec.position_rows

    def write(self, new: list[Row]) -> None:
        """Remember the rows, and drop the oldest blocks."""
        self.rows += new
        most = self.method.max_blocks
        most = most if self.method.ram_blocks is None else min(most, self.method.ram_blocks)  # there is no disk here
        for layer in self.layers:
            layer.blocks = layer.blocks[-most:]
            layer.vectors = layer.vectors[-most:]

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
        """Attend the (H, T, D) un-rotated queries of the rows ``mine``, step by step; see ``rekv``."""
        if self.num_sinks < 0:
            self.num_sinks = sum(row.kind == Kind.PREFIX for row in new)
        if query:
            first = 1 + max(row.arrival for row in self.rows)
            if new[0].arrival == first and layer == 0:
                self.asked = copy.deepcopy(self.layers)
        work = (self.asked if query else self.layers)[layer]
        if not query or new[0].arrival == 1 + max(row.arrival for row in self.rows):
            self.known = {row.arrival: row for row in self.rows}
        self.known.update({row.arrival: row for row in new})
        self._wait(work, new)
        arrivals = [row.arrival for row in new]
        size = self.method.exec_rows
        steps = (
            [group for _, group in frames_of(new)]
            if size is None
            else [arrivals[i : i + size] for i in range(0, len(arrivals), size)]
        )
        outs, weights = [], []
        for step in steps:
            at = [i for i, row in enumerate(mine) if row.arrival in step]
            if at:
                self._step(work, layer, step, [(mine[i], q[:, i]) for i in at], keys, values, outs, weights)
            self._cut(work, step[-1] + 1, keys)
        return torch.stack(outs, 1), weights

    def _wait(self, work: Layer, new: list[Row]) -> None:
        """The new rows wait as blocks to be; text that follows text goes on with its block."""
        for row in new:
            work.scores[row.arrival] = [0.0] * self.spec.heads
        most = self.spec.grid[0] * self.spec.grid[1] + max(16, self.spec.around_rows)
        talks = all(row.frame < 0 for row in new)
        for _, group in frames_of(new):
            block = [arrival for arrival in group if arrival >= self.num_sinks]
            if talks and work.talking and work.waiting and block:
                assert len(work.waiting[-1]) + len(block) <= most, "not tested"
                work.waiting[-1] += block
            else:
                work.waiting += [block[i : i + most] for i in range(0, len(block), most)]
        if any(row.arrival >= self.num_sinks for row in new):
            work.talking = talks

    def _step(
        self,
        work: Layer,
        layer: int,
        step: list[int],
        queries: list[tuple[Row, Tensor]],
        keys: dict[int, Tensor],
        values: dict[int, Tensor],
        outs: list[Tensor],
        weights: list[dict[int, float]],
    ) -> None:
        """One softmax per row and head: near rows, looked-up blocks, sinks, and what lies between."""
        reach, window = self.method.window, self.spec.windows[layer]
        begin, end = step[0], step[-1] + 1
        far_sees = window is None or window >= reach
        chosen = self._choose(work, [q for _, q in queries])
        sinks = range(min(max(begin - reach, 0), self.num_sinks))
        between = range(work.cut, max(end - reach, work.cut))
        gained: dict[int, list[float]] = {}
        for row, q in queries:
            out, mass = [], dict.fromkeys(keys, 0.0)
            for head in range(self.spec.heads):
                near: list[Pair] = []
                for other in sorted(keys):
                    if other <= row.arrival < other + min(reach, window or reach):
                        near.append((other, self._place(row), self._place(self.known[other])))
                distant = [*(x for place in chosen[head] for x in work.blocks[place]), *sinks]
                distant += [x for x in between if self.method.remainder == "released" or row.arrival - x >= reach]
                far = [(x, self.far, self.zero) for x in distant if x in keys] if far_sees else []
                o, shares = head_softmax(head, q[head], near + far, keys, values, self.spec)
                out.append(o)
                for (other, _, _), share in zip(near + far, shares, strict=True):
                    mass[other] += share / self.spec.heads
                for (other, _, _), share in zip(near, shares, strict=False):
                    gained.setdefault(other, [0.0] * self.spec.heads)[head] += share
            outs.append(torch.stack(out))
            weights.append(mass)
        for other, shares in gained.items():
            if other in work.scores:
                work.scores[other] = [a + b for a, b in zip(work.scores[other], shares, strict=True)]

    def _choose(self, work: Layer, queries: list[Tensor]) -> list[list[int]]:
        """Per head, the places of the chosen blocks, in the order of the stream."""
        heads, num = self.spec.heads, self.method.retrieve
        turned = [turn(q[:, None], [self.far], self.spec.rope)[:, 0] for q in queries]
        mean = torch.stack(turned).mean(0)
        worth = [[float(mean[head] @ vector[head]) for vector in work.vectors] for head in range(heads)]
        if not self.method.per_head:
            worth = [[sum(column) for column in zip(*worth, strict=True)]] * heads
        return [sorted(sorted(range(len(own)), key=lambda i: -own[i])[:num]) for own in worth]

    def _cut(self, work: Layer, end: int, keys: dict[int, Tensor]) -> None:
        """Fill the sinks, then cut blocks while a window's worth of rows stays."""
        reach = self.method.window
        work.cut = max(work.cut, min(max(end - reach, 0), self.num_sinks))
        while work.cut >= self.num_sinks:
            if self.method.block is not None:
                block = list(range(work.cut, work.cut + self.method.block))
            elif work.waiting:
                block = work.waiting[0]
            else:
                return
            if end - 1 - block[-1] < reach:
                return
            work.waiting = work.waiting[1:]
            work.blocks.append(block)
            work.vectors.append(self._vector(work, [x for x in block if x in keys], keys))
            work.cut = block[-1] + 1
            work.scores = {arrival: x for arrival, x in work.scores.items() if arrival >= work.cut}

    def _vector(self, work: Layer, held: list[int], keys: dict[int, Tensor]) -> Tensor:
        """Per head the mean key of the rows with most attention."""
        heads, repeat = self.spec.heads, self.spec.heads // self.spec.kv_heads
        vector = torch.zeros(heads, self.spec.head_dim, dtype=torch.float64)
        for head in range(heads):
            best = sorted(held, key=lambda x: -work.scores[x][head])[: self.method.represent]
            if best:
                vector[head] = torch.stack([keys[x][head // repeat].double() for x in best]).mean(0)
        return vector

    def _place(self, row: Row) -> tuple[int, ...]:
        return row.ids if self.policy == "original" else (row.arrival,) * self.spec.position_rows


def golden(tensors: dict[str, Tensor], settings: dict[str, str]) -> str:
    """Compare with the published context manager: attention, block vectors, their rows and scores, what was chosen."""
    from headrace.methods.memories.infllm import InfLLM
    from reference.golden import close, equal
    from reference.naive.driven import one_layer, rows_of

    values = json.loads(settings["settings"])
    spec, per_head = one_layer(values), values["perhead"]
    method = InfLLM(
        retrieve=values["topk"],
        window=values["n_local"],
        sinks=values["n_init"],
        block=values["block"],
        exec_rows=values["exec_block"],
        represent=values["repr_topk"],
        remainder="released",
        per_head=per_head,
        positions="repack",
    )
    state, outs, at, chosen, fresh = method.init(spec), [], 0, [], []
    for num in values["appends"]:
        context = method.read(state, spec, query=False)
        context.begin(rows_of(at, num, lambda _: -1))
        part = slice(at, at + num)
        outs.append(context.attend(0, None, *(tensors[name][:, part] for name in "qkv")))
        span = context.finish()
        chosen += context.selected
        (work,) = span.trace.working
        fresh += list(zip(work.tokens, work.mass, strict=True))
        state, at = method.write(state, span), at + num
    heads, num_blocks = values["heads"], len(state.shelf)
    vectors = state.index.vectors(0).view(num_blocks, heads, -1)
    vectors = vectors.transpose(0, 1) if per_head else vectors.flatten(1)[None]
    units = tensors["block_vectors"].shape[0]
    rows, mass = torch.stack([x for x, _ in fresh]), torch.stack([x for _, x in fresh])
    if per_head:
        rows, mass = rows.transpose(0, 1)[:, :, None], mass.transpose(0, 1)[:, :, None]
    else:
        rows, mass = rows[None], mass[None]
    picks = torch.full((len(chosen), units, values["topk"]), -1)
    for step, found in enumerate(chosen):
        for unit in range(units):
            own = sorted(found[unit % len(found)])
            picks[step, unit, : len(own)] = torch.tensor(own, dtype=torch.int64)
    wanted, best = tensors["selected_blocks"], tensors["representative_tokens"]
    ordered = torch.where(wanted < 0, wanted.max() + 1, wanted).sort(-1).values
    ordered = torch.where(ordered == wanted.max() + 1, -1, ordered)
    return ", ".join(
        [
            close("attention_out", torch.cat(outs, 1), tensors["attention_out"]),
            close("block_vectors", vectors, tensors["block_vectors"]),
            equal("representative_tokens", rows.reshape(best.shape), best),
            close("token_scores", mass.reshape(tensors["token_scores"].shape), tensors["token_scores"]),
            equal("selected_blocks", picks, ordered),
        ]
    )
