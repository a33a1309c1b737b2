"""The contract of speakers."""

from __future__ import annotations

from contract.plays import Case, play_of, twin_of
from headrace.types import Decision

STEPS = 20


def test_decisions_are_whole_and_equal_the_naive_twin(speaker_case: Case):
    play = play_of(speaker_case, None)
    items = [play.item(1, i) for i in range(STEPS)]
    state, said = play.init(), []
    for item in items:
        state, decision = play.step(state, item)
        assert isinstance(decision, Decision)
        assert 0 <= decision.score <= 1
        assert decision.prompt or not decision.speak, "who speaks says what to ask"
        said.append((decision.speak, decision.prompt))
    assert said == twin_of(speaker_case.name).twin(play.method, items)
