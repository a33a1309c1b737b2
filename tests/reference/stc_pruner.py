"""Naive twin of ``stc_pruner``: a list of chunk means, plain loops, as the released steps say."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from headrace.types import VisualTokens
from reference.uniform import IDENTITY as IDENTITY
from reference.uniform import budget as budget

VARIANTS: list[dict[str, Any]] = [
    {},
    {"keep": 7},
    {"keep": 1, "score": "dual_anchor"},
    {"keep": 0.5, "channels": "fixed"},
    {"keep": 0.4, "score": "dual_anchor", "channels": "fixed"},
]
REJECTS: dict[str, list[Any]] = {
    "keep": [0, -1, 0.0, 1.0001, float("nan"), True, "many"],
    "score": ["gauss", ""],
    "channels": ["some"],
}
TUNED: dict[str, list[Any]] = {"keep": [1, 5, 0.7, 1.0], "score": ["dual_anchor", "gaussian", "dual_anchor"]}


def unit(x: list[float]) -> list[float]:
    """Scale to length one."""
    length = math.sqrt(sum(value * value for value in x))
    return [value / max(length, 1e-12) for value in x]


def kernel(a: list[float], b: list[float]) -> float:
    """Five Gaussians of the distance."""
    distance = sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
    return sum(math.exp(-distance / (2 * width)) for width in (1 / 8, 1 / 4, 1 / 2, 1, 2))


def mean(rows: list[list[float]]) -> list[float]:
    """Average rows."""
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def twin(method: Any, steps: list[VisualTokens]) -> list[list[int]]:
    """Indices kept of every step."""
    means: list[list[float]] = []
    fixed: list[int] | None = None
    answer = []
    for tokens in steps:
        x = tokens.features.double()
        variance = [float(column.var(correction=0)) for column in x.T]
        order = sorted(range(len(variance)), key=lambda c: variance[c])[: len(variance) // 2]
        if method.channels == "fixed":
            order = fixed = order if fixed is None else fixed
        rows = x[:, order].tolist()
        means.append(mean(rows))
        history = unit(mean(means))
        f = [unit(row) for row in rows]
        indices = []
        for frame in range(len(tokens.frames)):
            own = [i for i in range(len(rows)) if int(tokens.frame[i]) == frame]
            here = mean([f[i] for i in own])
            scores = {}
            for i in own:
                if method.score == "gaussian":
                    scores[i] = kernel(f[i], here) + kernel(f[i], history)
                else:
                    near = sum(a * b for a, b in zip(f[i], unit(here), strict=True))
                    past = sum(a * b for a, b in zip(f[i], history, strict=True))
                    scores[i] = -(0.5 * (1 - past) + 0.5 * (1 - near))
            indices.extend(sorted(sorted(own, key=lambda i: scores[i])[: budget(method, len(own))]))
        answer.append(indices)
    return answer


def golden(tensors: dict[str, Tensor], settings: dict[str, str]) -> str:
    """Compare with the indices the published pruner kept."""
    from headrace.methods.compressors.stc_pruner import StcPruner
    from reference.golden import equal

    features, keep = tensors["pruner.features"], int(settings["keep_tokens"])
    chosen: Any = {key: settings[key] for key in ("score", "channels") if key in settings}
    method, chunk = StcPruner(keep=keep, **chosen), int(settings["chunk_frames"])
    state, found = method.init(None), []  # type: ignore[arg-type]
    for part in features.split(chunk):
        num, tokens = part.shape[0], part.shape[1]
        place = torch.arange(num * tokens)
        step = VisualTokens(
            features=part.flatten(0, 1),
            frame=place // tokens,
            row=torch.zeros_like(place),
            col=place % tokens,
            grid=(1, tokens),
            frames=tuple(range(num)),
            times_s=(0.0,) * num,
        )
        state, edit = method.step(state, step)
        found.append(edit.indices.view(num, min(keep, tokens)) % tokens)
    return equal("kept_indices", torch.cat(found), tensors["pruner.kept_indices"])
