"""Accuracy with its uncertainty."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

NORMAL = 1.959964  # 97.5 % of a normal distribution lie below
STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)  # with 1, 2, ... 10 degrees


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
    between streams wherever there are at least two (with Student's quantile: a few streams know little of how much
    streams differ), and from the binomial of each kind otherwise.

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
        ci95=quantile(len({x.seed for x in outcomes})) * math.sqrt(_variance(kinds, by_kind)),
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
    return sum(mean.values()) / len(mean), quantile(units) * math.sqrt(variance)


def quantile(num: int) -> float:
    """Return by how many standard errors a 95 % interval reaches to each side, for ``num`` independent units.

    Student's distribution with ``num`` - 1 degrees of freedom; a single unit has no spread of its own, so there the
    variance must be known otherwise and the normal distribution stands in. Beyond ten degrees by the series of Cornish
    and Fisher, to 1e-3.
    """
    degrees, z = num - 1, NORMAL
    if degrees < 1:
        return z
    if degrees <= len(STUDENT):
        return STUDENT[degrees - 1]
    series = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / float(degrees) ** power for power, term in enumerate(series, start=1))


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
