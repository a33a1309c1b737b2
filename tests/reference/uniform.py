"""Naive twin of ``uniform``: cut the frame into equal stretches and take the token in the middle of each."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

from headrace.types import VisualTokens

VARIANTS: list[dict[str, Any]] = [{}, {"keep": 1}, {"keep": 7}, {"keep": 0.3}, {"keep": 0.01}]
IDENTITY: list[dict[str, Any]] = [{"keep": 1.0}, {"keep": 10_000}]
REJECTS: dict[str, list[Any]] = {"keep": [0, -1, 0.0, -0.5, 1.0001, float("nan"), float("inf"), True, "many"]}
TUNED: dict[str, list[Any]] = {"keep": [1, 5, 1000, 0.01, 0.9, 1.0]}


def budget(method: Any, num: int) -> int:
    """Most tokens of a frame of ``num`` that may stay."""
    if isinstance(method.keep, int):
        return min(method.keep, num)
    return min(num, max(1, round(method.keep * num)))


def twin(method: Any, steps: list[VisualTokens]) -> list[list[int]]:
    """Indices kept of every step."""
    answer = []
    for tokens in steps:
        indices = []
        for frame in range(len(tokens.frames)):
            own = [i for i in range(len(tokens)) if int(tokens.frame[i]) == frame]
            num = budget(method, len(own))
            for stretch in range(num):
                middle = Fraction(len(own) * stretch, num) + Fraction(len(own), 2 * num)
                indices.append(own[floor(middle)])
        answer.append(indices)
    return answer
