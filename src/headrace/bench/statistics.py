"""Accuracy with its uncertainty."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question: its kind, the stream it was asked on, and whether the answer was right."""

    kind: str
    seed: int
    right: bool


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of right answers.

    Attributes:
        macro: Mean over kinds.
        micro: Mean over questions.
        ci95: Half-width of the 95 % interval of ``macro``.
        by_kind: Per kind.
        num: Questions.
    """

    macro: float
    micro: float
    ci95: float
    by_kind: dict[str, float]
    num: int


def accuracy(outcomes: Sequence[Outcome]) -> Accuracy:
    """Average outcomes.

    The interval treats the streams as the sample: questions on one stream hang together, so the variance is taken
    between streams wherever there are at least two, and from the binomial of each kind otherwise.

    Raises:
        ValueError: There are no outcomes.
    """
    if not outcomes:
        raise ValueError("nothing to average: no questions were asked")
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.kind].append(outcome)
    by_kind = {kind: sum(x.right for x in kinds[kind]) / len(kinds[kind]) for kind in sorted(kinds)}
    return Accuracy(
        macro=sum(by_kind.values()) / len(by_kind),
        micro=sum(x.right for x in outcomes) / len(outcomes),
        ci95=1.96 * math.sqrt(_variance(kinds, by_kind)),
        by_kind=by_kind,
        num=len(outcomes),
    )


def _variance(kinds: dict[str, list[Outcome]], by_kind: dict[str, float]) -> float:
    """Variance of the macro mean: a ratio estimator over streams, or binomial with a single stream."""
    seeds = sorted({x.seed for found in kinds.values() for x in found})
    if len(seeds) < 2:
        return sum(by_kind[k] * (1 - by_kind[k]) / len(found) for k, found in kinds.items()) / len(kinds) ** 2
    pull = dict.fromkeys(seeds, 0.0)
    for kind, found in kinds.items():
        for x in found:
            pull[x.seed] += (x.right - by_kind[kind]) / len(found) / len(kinds)
    return sum(value**2 for value in pull.values()) * len(seeds) / (len(seeds) - 1)
