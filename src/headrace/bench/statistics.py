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


def difference(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> tuple[float, float]:
    """Compare two lists of outcomes of the same questions in the same order.

    Questions that both answer alike cancel out, so a small difference shows in fewer questions than two accuracies
    would need.

    Returns:
        Ours minus theirs, mean over kinds, and half of its 95 % interval; the streams are the sample, as in
        ``accuracy``, questions where there is a single stream.

    Raises:
        ValueError: There are no outcomes, or they are not of the same questions.
    """
    if not ours or [(x.kind, x.seed) for x in ours] != [(x.kind, x.seed) for x in theirs]:
        raise ValueError("nothing to compare: both must have answered the same questions")
    one_stream = len({x.seed for x in ours}) == 1
    kinds: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        kinds[a.kind].append((number if one_stream else a.seed, a.right - b.right))
    mean = {kind: sum(value for _, value in found) / len(found) for kind, found in kinds.items()}
    pull: dict[int, float] = defaultdict(float)
    for kind, found in kinds.items():
        for unit, value in found:
            pull[unit] += (value - mean[kind]) / len(found) / len(kinds)
    units = len(pull)
    variance = sum(value**2 for value in pull.values()) * units / max(1, units - 1)
    return sum(mean.values()) / len(mean), 1.96 * math.sqrt(variance)


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
