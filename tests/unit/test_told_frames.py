"""A question that says which frames the memory shall bring back."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from headrace import load, registry
from headrace.cache import Disk
from headrace.engine.state import same
from headrace.methods.memories.rekv import ReKV
from headrace.types import Cursor, Frame, Query
from parity.models import frames, tiny
from reference.naive.decoder import Decoder, drive, spec
from unit.test_rekv_infllm import asked, shown, stream
from unit.tiny import run

from contract.streams import dice, turn_of  # isort: skip


def test_frames_that_are_told_are_what_a_question_sees(tmp_path: Path):
    """All of them answer as full memory does; of some nothing else is seen, and nothing is changed."""
    model = spec()
    decoder, segments = Decoder(model), stream(model, 9)
    method = ReKV(window=500, retrieve=2, ram_blocks=3)
    state = shown(method, decoder, segments, method.house(method.init(model), Disk(tmp_path)))
    frames = sorted({int(x) for seg in segments for x in seg.frame.tolist() if x >= 0})
    full = registry.build("full")
    want = asked(full, decoder, shown(full, decoder, segments), segments[-1])
    looked = asked(method, decoder, state, segments[-1])

    told = SimpleNamespace(read=lambda state, spec, query: method.read_frames(state, spec, frames))
    torch.testing.assert_close(asked(told, decoder, state, segments[-1]), want, atol=1e-5, rtol=0)
    context = method.read_frames(state, model, (frames[5], frames[2]))
    turn, _ = turn_of(4, 4, Cursor(next=900), 1, model.dtype)
    drive(decoder, turn, context, watch=True)
    attention = context.finish().attention
    assert attention is not None
    assert {int(x) for x in attention.frame.tolist() if x >= 0} == {frames[2], frames[5]}
    assert {moment.chosen for moment in attention.moments(5)} == {1.0}
    assert torch.equal(asked(method, decoder, state, segments[-1]), looked), "the next question looks up again"
    with pytest.raises(ValueError, match=f"frames: the memory does not hold 999; it holds {len(frames)}, from 0 to"):
        method.read_frames(state, model, (0, 999))


def test_frames_that_wait_for_their_step_do_not_bring_others_back():
    """The memory takes them in for the question, and is opened again: still on the frames it was told."""
    pictures = torch.randint(0, 256, (5, 48, 64, 3), generator=dice(6), dtype=torch.uint8)
    with load("nano").open("rekv:1", settings=("memory.window=80",), chunk_frames=2) as stream:
        for i, picture in enumerate(pictures):
            stream.push(Frame(i, float(i), picture))
        assert stream.state.pending
        told = stream.ask("how many things are there", max_tokens=2, evidence=9, frames=(3, 1))
        assert {moment.frame for moment in told.evidence} == {1, 3}
        told = stream.ask("how many things are there", max_tokens=2, evidence=9, frames=(4, 1))
        assert {moment.frame for moment in told.evidence} == {1, 4}, "also of those that wait"
        with pytest.raises(ValueError, match="frames: the memory does not hold 5; it holds 5, from 0 to 4"):
            stream.ask("how many things are there", frames=(5,))


def test_a_question_may_say_which_frames_it_wants():
    """By ``ask`` and by the command; of a memory that cannot, and of numbers that are none, one line."""
    pictures = torch.randint(0, 256, (5, 48, 64, 3), generator=dice(5), dtype=torch.uint8)
    with load("nano").open("rekv:1", settings=("memory.window=80",)) as stream:
        for i, picture in enumerate(pictures):
            stream.push(Frame(i, float(i), picture))
        told = stream.ask("how many things are there", max_tokens=2, evidence=9, frames=(3, 1))
        assert {moment.frame for moment in told.evidence} == {1, 3}
        with pytest.raises(ValueError, match="frames: the memory does not hold 5; it holds 5, from 0 to 4"):
            stream.ask("how many things are there", frames=(5,))
    for wrong in ((-1,), (1.5,), ("1",), (True,), 3):
        with pytest.raises(ValueError, match="frames: must be stream indices"):
            Query("what", frames=wrong)
    asks = ("ask", "world:3,seconds=3", "how many things are there", "--json", "--max-tokens", "2")
    status, stdout, _ = run(*asks, "--pipeline", "rekv:1", "--frames", "1,3-4")
    (found,) = (x for x in map(json.loads, stdout.splitlines()) if x["event"] == "answer")
    assert (status, {moment["frame"] for moment in found["evidence"]}) == (0, {1, 3, 4})
    for pipeline, told, line in (
        ("full", "1", "frames: full cannot be told what to look up; take a memory such as rekv"),
        ("rekv", "4-2", "--frames: '4-2' must be whole numbers and ranges of them, as 3,8-12"),
        ("rekv", "1,,2", "--frames: '1,,2' must be"),
        ("rekv", "99", "frames: the memory does not hold 99"),
    ):
        status, _, stderr = run(*asks, "--pipeline", pipeline, "--frames", told)
        assert status != 0
        assert line in stderr


def test_a_remembered_question_that_is_refused_changes_nothing() -> None:
    """Frames that waited for their step wait on."""
    engine = tiny("frame", seed=1).engine
    stream = engine.open("rekv:2+stc_cacher", chunk_frames=3)
    for frame in frames(4):
        stream.push(frame)
    before = stream.fork()
    with pytest.raises(ValueError, match="does not hold 99"):
        stream.ask("w1", remember=True, max_tokens=2, frames=(99,))
    assert len(stream.state.pending) == 1
    assert same(stream.state, before.state)
    for frame in frames(4, first=4):
        stream.push(frame)
        before.push(frame)
    assert stream.ask("w1", max_tokens=4).tokens == before.ask("w1", max_tokens=4).tokens
    assert stream.ask("w1", remember=True, max_tokens=2, frames=(0,)).frames_seen == 8
