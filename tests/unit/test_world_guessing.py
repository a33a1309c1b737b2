"""No question is worth guessing: not from its kind, not from its words."""

from collections import Counter, defaultdict

import pytest

from headrace.video.world import ALL_KINDS, LEVELS, World, choices, questions
from headrace.video.world.fair import odds


def asked(level, seeds):
    return [
        question
        for seed in seeds
        for tick in range(7, 400, 8)
        for question in questions(World(seed, level), tick, kinds=tuple(ALL_KINDS), fair=True)
    ]


def guess(level, num):
    """Share of right guesses, number of questions and chance, by kind.

    The guesser gives the most frequent answer to the same words on other streams. Chance is one in so many answers as
    come up at least half as often as they would if all were equally frequent.
    """
    by_text, by_kind, told = defaultdict(Counter), defaultdict(Counter), defaultdict(Counter)
    for question in asked(level, range(100, 100 + num)):
        by_text[question.text][question.answer] += 1
        by_kind[question.kind][question.answer] += 1
    right = Counter()
    for question in asked(level, range(5000, 5000 + num)):
        told[question.kind][question.answer] += 1
        known = by_text[question.text] or by_kind[question.kind]
        right[question.kind] += known.most_common(1)[0][0] == question.answer
    found = {}
    for kind, answers in told.items():
        total = answers.total()
        frequent = sum(2 * times * len(answers) >= total for times in answers.values())
        found[kind] = (right[kind] / total, total, 1 / frequent)
    return found


def check(level, num, sigmas):
    found = guess(level, num)
    assert set(found) == set(ALL_KINDS)
    for kind, (share, total, chance) in found.items():
        most = 0.6 if choices(kind) == ("yes", "no") else 1.3 * chance
        assert share <= most + sigmas * (chance / total) ** 0.5, (kind, share, total, chance)
        assert total > num, kind
    return found


def test_words_give_nothing_away():
    found = check(LEVELS["standard"], 20, 2)
    assert sum(share for share, *_ in found.values()) / len(found) < 0.25


@pytest.mark.long
@pytest.mark.parametrize("name", LEVELS)
def test_words_give_nothing_away_at_length(name):
    found = check(LEVELS[name], 150, 0)
    for kind, (share, total, chance) in found.items():
        print(f"{name} {kind}: guess {share:.3f}, chance {chance:.3f}, {total} questions")  # noqa: T201


def test_fair_questions_are_some_of_all():
    some = questions(World(3), 40, kinds=tuple(ALL_KINDS), fair=True)
    every = questions(World(3), 40, kinds=tuple(ALL_KINDS))
    assert [question for question in every if question in some] == some
    kept = odds(LEVELS["standard"], tuple(ALL_KINDS.values()))
    assert {kind for kind, _ in kept} == {kind for kind in ALL_KINDS if ALL_KINDS[kind].skewed}
    assert all(0 < share <= 1000 for share in kept.values())
    assert kept["count", "three"] < 300 < kept["count", "five"]
