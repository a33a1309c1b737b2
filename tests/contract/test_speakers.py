"""The contract of speakers."""

from __future__ import annotations

from contract.plays import Case, play_of, twin_of
from contract.streams import observation_of
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
        assert not play.method.reads_reply or decision.prompt in ("", item.reply.instruction)
        assert decision.prompt or not decision.speak, "who speaks says what to ask"
        said.append((decision.speak, decision.prompt))
    assert said == twin_of(speaker_case.name).twin(play.method, items)


def test_the_replies_played_leave_room_for_both_choices():
    """A speaker that reads replies is shown some that begin with silence and some that do not."""
    replies = [observation_of(1, i, hidden=False, reply=True).reply for i in range(STEPS)]
    silent = [int(reply.logits.argmax()) in reply.stop_ids for reply in replies if reply is not None]
    assert 4 < sum(silent) < STEPS - 4
