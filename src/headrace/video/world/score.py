"""Scoring: exact match of normalised answers, by kind, and what guessing would get."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.video.world.kind import NUMBERS

ALIASES = {str(number): word for number, word in enumerate(NUMBERS)} | {
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "center": "centre",
    "middle": "centre",
    "color": "colour",
}


def normalise(text: str) -> str:
    """Bring an answer to the form that is compared: lower case, no punctuation, no article, one name per number."""
    words = re.sub(r"[^a-z0-9 ]+", " ", text.lower()).split()
    return " ".join(ALIASES.get(word, word) for word in words if word not in ("the", "a", "an"))


def matches(answer: str, truth: str) -> bool:
    """Tell whether an answer is right."""
    return normalise(answer) == normalise(truth)


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy over a set of questions, as shares of 1.

    Attributes:
        macro: Mean over the kinds, each counting the same.
        micro: Mean over the questions.
        by_kind: Accuracy of each kind, sorted by name.
        counts: Number of questions of each kind.
    """

    macro: float
    micro: float
    by_kind: dict[str, float]
    counts: dict[str, int]


def score(results: Iterable[tuple[str, str, str]]) -> Score:
    """Score (kind, truth, answer) triples.

    Raises:
        ValueError: There are none.
    """
    hits: dict[str, list[bool]] = defaultdict(list)
    for kind, truth, answer in results:
        hits[kind].append(matches(answer, truth))
    if not hits:
        raise ValueError("nothing to score: no questions were asked")
    by_kind = {kind: sum(hits[kind]) / len(hits[kind]) for kind in sorted(hits)}
    total = sum(len(found) for found in hits.values())
    return Score(
        macro=sum(by_kind.values()) / len(by_kind),
        micro=sum(map(sum, hits.values())) / total,
        by_kind=by_kind,
        counts={kind: len(hits[kind]) for kind in by_kind},
    )


def majority(pairs: Sequence[tuple[str, str]]) -> Score:
    """Score the guesser who gives each kind's most frequent answer to all its questions.

    Args:
        pairs: (kind, truth) of every question.
    """
    tally: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, truth in pairs:
        tally[kind][truth] += 1
    guess = {kind: found.most_common(1)[0][0] for kind, found in tally.items()}
    return score([(kind, truth, guess[kind]) for kind, truth in pairs])
