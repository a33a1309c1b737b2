"""Naive twin of ``random``: number the tokens of a frame, shuffle, take the first ones, put them back in order."""

from __future__ import annotations

from typing import Any

import torch

from headrace.types import VisualTokens
from reference.uniform import IDENTITY as IDENTITY
from reference.uniform import TUNED as TUNED
from reference.uniform import budget as budget

VARIANTS: list[dict[str, Any]] = [{}, {"keep": 1}, {"keep": 7, "seed": 3}, {"keep": 0.3, "seed": 2**31 - 1}]
REJECTS: dict[str, list[Any]] = {
    "keep": [0, -1, 0.0, -0.5, 1.0001, float("nan"), float("inf"), True, "many"],
    "seed": [-1, 2**31],
}


def twin(method: Any, steps: list[VisualTokens]) -> list[list[int]]:
    """Indices kept of every step; the shuffle depends on the seed and the frame's index in the stream."""
    answer = []
    for tokens in steps:
        indices = []
        for frame, index in enumerate(tokens.frames):
            own = [i for i in range(len(tokens)) if int(tokens.frame[i]) == frame]
            dice = torch.Generator()
            dice.manual_seed((method.seed << 32) + index)
            shuffled = torch.randperm(len(own), generator=dice).tolist()
            chosen = sorted(shuffled[: budget(method, len(own))])
            indices.extend(own[i] for i in chosen)
        answer.append(indices)
    return answer
