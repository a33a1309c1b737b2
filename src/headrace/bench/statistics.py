"""Accuracy with its uncertainty."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NORMAL = 1.959964  # 97.5 % of a normal distribution lie below
STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)  # with 1, 2, ... 10 degrees


Kinds = Mapping[str, Sequence[tuple[int, int]]]  # by kind: the unit of the sample and the value of every question


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


def accuracy(outcomes: Sequence[Outcome], *, repeats: int = 1) -> Accuracy:
    """Average outcomes.

    Args:
        outcomes: Questions and whether they were answered right.
        repeats: How often each question was asked. Answers to one question hang together: for the interval they tell
            no more than one does.

    The interval treats the streams as the sample: questions on one stream hang together, so the variance is taken
    between streams (with Student's quantile: a few streams know little of how much streams differ), and from the
    binomial for kinds that only one stream asked. It always holds the interval of Wilson for as many independent
    questions, which is not empty where all answers are alike.

    Source: Wilson 1927, for a stratified mean: with the variance of the strata, and the number of questions that would
    give as much if all kinds were equally hard.

    Raises:
        ValueError: There are no outcomes.
    """
    if not outcomes:
        raise ValueError("nothing to average: no questions were asked")
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.kind].append(outcome)
    found = {kind: [(x.seed, int(x.right)) for x in own] for kind, own in kinds.items()}
    by_kind = {kind: sum(x.right for x in kinds[kind]) / len(kinds[kind]) for kind in sorted(kinds)}
    return Accuracy(
        macro=sum(by_kind.values()) / len(by_kind),
        micro=sum(x.right for x in outcomes) / len(outcomes),
        ci95=max(_spread(found, repeats), _wilson(found, repeats)),
        by_kind=by_kind,
        num=len(outcomes),
    )


def difference(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> tuple[float, float]:
    """Compare two lists of outcomes of the same questions in the same order.

    Questions that both answer alike cancel out, so a small difference shows in fewer questions than two accuracies
    would need.

    Returns:
        Ours minus theirs, mean over kinds, and half of its 95 % interval; the streams are the sample, as in
        ``accuracy``, questions where there is a single stream. It is never narrower than the interval of Agresti and
        Min (2005) for as many independent pairs, which is not empty where both answer alike.

    Raises:
        ValueError: There are no outcomes, or they are not of the same questions.
    """
    if not ours or [(x.kind, x.seed) for x in ours] != [(x.kind, x.seed) for x in theirs]:
        raise ValueError("nothing to compare: both must have answered the same questions")
    one_stream = len({x.seed for x in ours}) == 1
    kinds: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        kinds[a.kind].append((number if one_stream else a.seed, a.right - b.right))
    mean = sum(sum(value for _, value in found) / len(found) for found in kinds.values()) / len(kinds)
    pairs = NORMAL * math.hypot(math.sqrt(_within(kinds)), 1 / (_num_equal(kinds) + 2))
    return mean, max(_spread(kinds), pairs)


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


def _spread(kinds: Kinds, repeats: int = 1) -> float:
    """Half-width of the 95 % interval of the mean over kinds, as the units of the sample differ.

    A kind that a single unit asked says nothing of how units differ; its part comes from the spread of its answers.
    """
    units = {unit for found in kinds.values() for unit, _ in found}
    alone = {kind: found for kind, found in kinds.items() if len({unit for unit, _ in found}) == 1}
    pull = dict.fromkeys(units, 0.0)
    for found in kinds.values():
        mean = sum(value for _, value in found) / len(found)
        for unit, value in found:
            pull[unit] += (value - mean) / len(found) / len(kinds)
    between = sum(value**2 for value in pull.values()) * len(units) / max(1, len(units) - 1)
    return math.hypot(quantile(len(units)) * math.sqrt(between), NORMAL * math.sqrt(repeats * _within(kinds, alone)))


def _wilson(kinds: Kinds, repeats: int) -> float:
    """How far Wilson's interval reaches from the mean over kinds, to its farther side."""
    share = sum(sum(v for _, v in found) / len(found) for found in kinds.values()) / len(kinds)
    extra = NORMAL**2 * repeats / _num_equal(kinds)
    middle = (share + extra / 2) / (1 + extra)
    half = math.sqrt(NORMAL**2 * repeats * _within(kinds) + extra**2 / 4) / (1 + extra)
    return abs(share - middle) + half


def _num_equal(kinds: Kinds) -> float:
    """Questions of equally hard kinds whose plain mean would be known as well as the mean over these kinds."""
    return len(kinds) ** 2 / sum(1 / len(found) for found in kinds.values())


def _within(kinds: Kinds, some: Kinds | None = None) -> float:
    """Variance of the mean over kinds if all questions were independent: the part of some kinds, or of all.

    Every kind has one more question, which was answered as all kinds are on average: a single question has no spread.
    """
    first, second = (
        sum(sum(v**power for _, v in found) / len(found) for found in kinds.values()) / len(kinds) for power in (1, 2)
    )
    total = 0.0
    for found in (kinds if some is None else some).values():
        num = len(found)
        mean = (sum(v for _, v in found) + first) / (num + 1)
        total += ((sum(v * v for _, v in found) + second) / (num + 1) - mean**2) / num
    return total / len(kinds) ** 2
