"""Naive twin of ``eos_threshold``: probabilities in a list, the silent one struck out, the largest looked up."""

from __future__ import annotations

import math
from typing import Any

from headrace.types import Observation

VARIANTS: list[dict[str, Any]] = [{}, {"threshold": 0.725}, {"threshold": 1}, {"threshold": 0.01}]
REJECTS: dict[str, list[Any]] = {"threshold": [0, -0.5, 1.01, 2]}
TUNED: dict[str, list[Any]] = {"threshold": [0.01, 0.725, 1.0]}


def odds(logits: list[float]) -> list[float]:
    """Softmax of a list."""
    top = max(logits)
    powers = [math.exp(x - top) for x in logits]
    return [x / sum(powers) for x in powers]


def chosen(threshold: float, logits: list[float], stop_ids: tuple[int, ...]) -> int:
    """The reply's first token; all tokens that end a reply are the first of them."""
    found = odds(logits)
    silence, *others = stop_ids
    for token in others:
        found[silence] += found[token]
        found[token] = 0.0
    if found[silence] < threshold:
        found[silence] = 0.0
    return found.index(max(found))


def twin(method: Any, seen: list[Observation]) -> list[tuple[bool, str]]:
    """Whether to speak, and the prompt, after every reply."""
    said = []
    for each in seen:
        assert each.reply is not None
        speak = chosen(method.threshold, each.reply.logits.tolist(), each.reply.stop_ids) not in each.reply.stop_ids
        said.append((speak, each.reply.instruction if speak else ""))
    return said
