"""Naive twin of ``stc_adaptive``: one frame, one layer, one patch at a time, everything kept in lists."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from headrace.types import Frame, VisualTokens

VARIANTS: list[dict[str, Any]] = [
    {},
    {"drift": 9.0, "most": 0.5, "max_age": 5},
    {"drift": 2.0, "most": 1.0, "halo": 0, "noise": 0.0},
    {"drift": 9.0, "least": 0.3, "most": 0.6, "noise": 40.0},
    {"drift": 1.5, "most": 0.2, "halo": 2, "noise": 2.0},
]
IDENTITY: list[dict[str, Any]] = [{"max_age": 1}, {"least": 1.0, "most": 1.0, "drift": 1000.0}]
REJECTS: dict[str, list[Any]] = {
    "drift": [0.0, -1.0, float("nan"), float("inf")],
    "least": [-0.1, 1.5, float("nan")],
    "most": [0.0, -0.5, 1.01, float("nan")],
    "noise": [-1.0, 256.0, float("nan"), float("inf")],
    "halo": [-1],
    "max_age": [0, -3],
}
TUNED: dict[str, list[Any]] = {
    "drift": [0.01, 100.0, 0.5],
    "least": [0.1, 0.0, 0.2],
    "most": [0.9, 0.05, 1.0],
    "noise": [0.0, 50.0, 3.0],
    "halo": [0, 3, 1],
    "max_age": [1, 1000, 2],
}


def twin(method: Any, backbone: Any, steps: Sequence[Sequence[Frame]]) -> list[list[VisualTokens]]:
    """Tokens of every step."""
    return [[tokens] for tokens, _ in _steps(method, backbone, steps)]


def updated(method: Any, backbone: Any, steps: Sequence[Sequence[Frame]]) -> list[list[list[set[int]]]]:
    """Patches that every step computed, per layer and frame."""
    return [worked for _, worked in _steps(method, backbone, steps)]


def _steps(method: Any, backbone: Any, steps: Sequence[Sequence[Frame]]) -> Iterator[tuple[VisualTokens, Any]]:
    """Tokens of every step, and the patches it computed per layer and frame."""
    known: dict[str, Any] = {}
    for frames in steps:
        px, outputs, worked = backbone.pixels(frames), [], []
        for x in backbone.patches(px):
            if not known:
                known.update(_probe(backbone, px.shape[-2:]))
            rows = _due(method, known, x, backbone.spec)
            worked.append(set(rows))
            _compute(known, backbone, x, rows)
            outputs.append([torch.stack(out) for out in known["out"]])
        layers = [torch.stack(layer) for layer in zip(*outputs, strict=True)]
        yield backbone.project(layers[-1], frames, [layers[i] for i in backbone.spec.taps]), [worked] * len(layers)


def _probe(backbone: Any, size: Sequence[int]) -> dict[str, Any]:
    """What a grey picture looks like to the tower, and what noise of one grey level does to it."""
    grey = torch.full((*size, 3), 128, dtype=torch.uint8)
    noise = torch.randn(*size, 3, generator=torch.Generator().manual_seed(0))
    noisy = (grey + 8 * noise).round().clamp(0, 255).to(torch.uint8)
    each = backbone.spec.frames_per_step
    shown = [Frame(0, 0.0, grey)] * each + [Frame(0, 0.0, noisy)] * each
    plain, other = backbone.patches(backbone.pixels(shown))
    moved = [distance(a, b) for a, b in zip(plain, other, strict=True)]
    return {"grey": plain, "grain": sum(moved) / len(moved) / 64, "since": None}


def distance(a: Tensor, b: Tensor) -> float:
    """Squared distance."""
    return float(((a.double() - b.double()) ** 2).sum())


def quartile(values: list[float]) -> float:
    """The value a quarter of the way up, between the two nearest ranks."""
    ranked, at = sorted(values), 0.25 * (len(values) - 1)
    low = math.floor(at)
    return ranked[low] + (at - low) * (ranked[min(low + 1, len(ranked) - 1)] - ranked[low])


def _due(method: Any, known: dict[str, Any], x: Tensor, spec: Any) -> list[int]:
    """Choose the patches to compute; all of them where a full pass is due."""
    every = list(range(len(x)))
    if known["since"] is None:
        known["median"] = 0.0
        return _start(known, x, spec)
    moved = [distance(x[n], known["patches"][n]) for n in every]
    noise = 2 * method.noise**2 * known["grain"]
    limit = max(noise, min(3 * quartile(moved), 16 * noise))
    changed = [n for n in every if moved[n] > limit]
    change = {n: min(1.0, moved[n] / (2 * known["contrast"])) for n in changed}
    median, before = statistics.median(moved), known["median"]
    known["median"] = median
    if known["since"] + 1 >= method.max_age:
        return _start(known, x, spec)
    if known["drift"] + sum(change.values()) / len(x) >= method.drift or median > 2.5 * max(noise, before):
        return _start(known, x, spec)
    places = every if spec.patch_order is None else spec.patch_order.tolist()

    def near(n: int) -> bool:
        here = divmod(places[n], spec.patch_grid[1])
        there = [divmod(places[m], spec.patch_grid[1]) for m in changed]
        return any(abs(here[0] - row) <= method.halo and abs(here[1] - col) <= method.halo for row, col in there)

    around = [n for n in every if near(n) and n not in changed]
    rest = [n for n in every if n not in changed and n not in around]
    queue = sorted(changed, key=lambda n: -moved[n])
    queue += sorted(around, key=lambda n: -known["age"][n]) + sorted(rest, key=lambda n: -known["age"][n])
    num = len(changed) + len(around)
    num = min(max(num, int(method.least * len(x))), int(method.most * len(x)))
    known["since"] += 1
    known["drift"] += sum(change.get(n, 0.0) for n in queue[:num]) / len(x)
    return sorted(queue[:num])


def _start(known: dict[str, Any], x: Tensor, spec: Any) -> list[int]:
    """Start afresh: everything is due, and contrast is measured again."""
    known.update(since=0, drift=0.0, patches=list(x), age=[0] * len(x))
    known["out"] = [[None] * len(x) for _ in range(spec.vision_layers)]
    known["layers"] = None
    plain = x.double() - known["grey"].double()
    known["contrast"] = sum(distance(row, plain.mean(0)) for row in plain) / len(x) + 64 * known["grain"]
    return list(range(len(x)))


def _compute(known: dict[str, Any], backbone: Any, x: Tensor, rows: list[int]) -> None:
    """Run patches through all layers, one after the other; the others are there as keys and values."""
    h = {n: x[n] for n in rows}
    if known["layers"] is None:
        known["layers"] = [([None] * len(x), [None] * len(x)) for _ in backbone.blocks()]
    for block, (keys, values), out in zip(backbone.blocks(), known["layers"], known["out"], strict=True):
        queries = {}
        for n in rows:
            normed = block.norm1(h[n][None, None])
            keys[n] = block.keys(normed, torch.tensor([[n]]))[0, 0]
            query, value = block.queries_values(normed, torch.tensor([[n]]))
            queries[n], values[n] = query, value[0, 0]
        for n in rows:
            which = torch.tensor([[n]])
            attended = block.attend(queries[n], torch.stack(keys)[None], torch.stack(values)[None], which)
            h[n] = h[n] + block.out(attended)[0, 0]
            h[n] = out[n] = h[n] + block.mlp(block.norm2(h[n][None, None]))[0, 0]
    for n in range(len(x)):
        known["age"][n] = 0 if n in h else known["age"][n] + 1
        if n in h:
            known["patches"][n] = x[n]
