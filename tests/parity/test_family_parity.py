"""Every family gives transformers' own logits and tokens; the families are those that are found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

import headrace
from headrace.backbones import FAMILIES, plain
from headrace.types import Cursor, Kind, View
from parity.families import kin, write
from parity.models import QUESTION, Recorder, frames, tiny
from unit.tiny import objects, run

TOLERANCE = 1e-4
WIDE, TALL = (30, 44), (52, 28)  # aspect ratios of the source
EVERY = pytest.mark.parametrize("family", FAMILIES)
CLIPS = [(1, WIDE), (2, TALL), (7, WIDE)]
MORE = [(n, size) for n in (1, 2, 7, 16) for size in (WIDE, TALL) if (n, size) not in CLIPS]


def test_every_file_of_a_family_is_found():
    assert "llava_onevision" in FAMILIES
    assert set(plain.shapes().values()) == set(FAMILIES), "every family names the shape of a released model"


@EVERY
@pytest.mark.parametrize(("num", "size"), [*CLIPS, *(pytest.param(*clip, marks=pytest.mark.long) for clip in MORE)])
def test_logits_of_every_row_and_greedy_tokens(family, num, size):
    """Frames one by one, and all at once: the same ids, the same logits, the tokens of ``generate``."""
    model, shown = kin(family), frames(num, size=size)
    inputs = model.inputs((QUESTION, shown))
    want, tokens = model.forward(inputs), model.generate(inputs, 12)
    assert len(set(tokens)) > 2, "a model that always says the same proves nothing"
    assert float(want.abs().max()) > 1, "logits this small are equal by accident"
    for chunk in {1, num}:
        recorder = Recorder(model.engine.backbone)
        stream = model.open(backbone=recorder, chunk_frames=chunk)
        for frame in shown:
            stream.push(frame)
        answer = stream.ask(QUESTION, max_tokens=12)
        same_ids(recorder, inputs["ids"])
        assert float((recorder.logits_of_all[: len(want)] - want).abs().max()) <= TOLERANCE
        assert list(answer.tokens) == tokens
        assert answer.finish == "length"


def same_ids(recorder: Recorder, want: torch.Tensor) -> None:
    """The rows that were run are the tokenized conversation, with one placeholder where no vocabulary entry stands."""
    got = torch.cat([segment.tokens for segment in recorder.segments])[: want.shape[1]]
    assert torch.equal(got[got >= 0], want[0][got >= 0])
    assert len(want[0][got < 0].unique()) == 1


@EVERY
def test_text_before_and_after_a_clip(family):
    """A clip, a question, its answer, another clip, a question, and one with no frames between."""
    model, shown = kin(family), frames(6, size=TALL)
    turns, answers, rows = [], [], 0
    recorder = Recorder(model.engine.backbone)
    stream = model.open(backbone=recorder)
    for question, clip in ((QUESTION, shown[:3]), ("w9 w4", shown[3:]), ("w5", [])):
        for frame in clip:
            stream.push(frame)
        turns.append((question, clip))
        inputs = model.inputs(*turns, answers=answers)
        answer = stream.ask(question, max_tokens=5, remember=True)
        assert list(answer.tokens) == model.generate(inputs, 5)
        answers.append(answer.text)
        rows = inputs["ids"].shape[1]
    same_ids(recorder, inputs["ids"])
    assert float((recorder.logits_of_all[:rows] - model.forward(inputs)).abs().max()) <= TOLERANCE
    assert len(set(answers)) == 3


@EVERY
@pytest.mark.parametrize("memory", ["full", "recent:32"])
def test_two_streams_in_turn_equal_each_alone(family, memory):
    model = kin(family)
    clips = [frames(5, seed=seed, size=size) for seed, size in ((1, WIDE), (2, TALL))]
    streams = [model.open(memory) for _ in clips]
    for pair in zip(*clips, strict=True):
        for stream, frame in zip(streams, pair, strict=True):
            stream.push(frame)
    got = [stream.ask(QUESTION, max_tokens=8).tokens for stream in streams]
    for clip, tokens in zip(clips, got, strict=True):
        alone = model.open(memory)
        for frame in clip:
            alone.push(frame)
        assert alone.ask(QUESTION, max_tokens=8).tokens == tokens
        assert list(tokens) == model.generate(model.inputs((QUESTION, clip)), 8)
    assert got[0] != got[1]


@EVERY
def test_rows_around_frames_are_as_many_as_the_spec_says_at_most(family):
    """What a memory's budget rests on; they name the frame they belong to, so that it is never torn apart."""
    model, recorder = kin(family), Recorder(kin(family).engine.backbone)
    stream = model.open(backbone=recorder)
    for frame in frames(4 * stream.spec.frames_per_step):
        stream.push(frame)
    spec = stream.spec
    prefix, *steps = recorder.segments
    assert len(prefix) == spec.prefix_rows
    assert (prefix.kind == Kind.PREFIX).all()
    for segment in steps:
        around = segment.kind != Kind.VISUAL
        assert around.sum() <= spec.around_rows
        assert (~around).sum() == spec.grid[0] * spec.grid[1]
        assert (segment.frame >= 0).all()


LATEST_S = {"qwen3_vl": 1_000_000.0, "smolvlm": 600_000_000.0}  # whose frames are written with the longest time


@pytest.mark.parametrize("family", [*FAMILIES, "a newline per frame"])
@pytest.mark.parametrize("prompt", ["trained", "library"])
def test_the_most_rows_around_a_step_are_those_after_an_answer(family, prompt):
    engine = kin(family).engine if family in FAMILIES else tiny("frame").engine
    (frame,) = (replace(frame, time_s=LATEST_S.get(family, 0.0)) for frame in frames(1))
    backbone = engine.backbone.at(engine.backbone.choose(View(prompt=prompt), frame))
    tokens = backbone.vision(backbone.pixels([frame] * backbone.spec.frames_per_step), [frame])
    after = backbone.wrap(tokens, Cursor(answered=True, turn=1))
    assert len(after) == len(tokens) + backbone.spec.around_rows
    assert len(backbone.wrap(tokens, Cursor())) < len(after)


@EVERY
@pytest.mark.parametrize("answered", [False, True])
def test_a_step_that_keeps_no_token_runs(family, answered):
    """Its markers alone, or no row at all."""
    engine, (frame,) = kin(family).engine, frames(1)
    stream = engine.open("full+keep_all")
    for each in frames(2):
        stream.push(each)
    backbone = kin(family).looking(frame)
    tokens = backbone.vision(backbone.pixels([frame] * backbone.spec.frames_per_step), [frame])
    none = tokens.take(torch.tensor([], dtype=torch.int64))
    memory = stream.pipeline.memory
    for outputs in (None, 0, 1):
        segment, _ = backbone.place(stream.state.cursor, backbone.wrap(none, Cursor(answered=answered)))
        context = memory.read(stream.state.memory, backbone.spec, query=False)
        hidden = backbone.extend(segment, context, outputs=outputs)
        want = len(segment) if outputs is None else min(outputs, len(segment))
        assert hidden.shape == (want, backbone.spec.dim)
        assert len(context.finish().segment) == len(segment)


@EVERY
def test_a_folder_save_pretrained_wrote_answers_through_the_command_line(family, tmp_path):
    write(family, tmp_path / "model")
    code, stdout, stderr = run(
        "ask", "world:7,seconds=2", "w1 w2", "--model", str(tmp_path / "model"), "--max-tokens", "4", "--json"
    )
    assert code == 0, stderr
    (said,) = [line for line in objects(stdout) if line["event"] == "answer"]
    assert said["finish"] == "length"
    assert len(said["text"].split()) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoints_repetition_penalty_is_generates(family, tmp_path):
    """From its generation_config.json; a question may say otherwise."""
    write(family, tmp_path)
    model = kin(family)
    config = GenerationConfig(repetition_penalty=1.7)
    config.save_pretrained(tmp_path)
    shown = frames(2)
    stream = replace(model, engine=headrace.load(str(tmp_path), dtype="float32", device="cpu")).open()
    for frame in shown:
        stream.push(frame)
    inputs = model.inputs((QUESTION, shown))
    plainly = model.generate(inputs, 24)
    punished = plain.generate(model.model, **inputs, max_tokens=24, repetition_penalty=1.7)
    assert stream.spec.repetition_penalty == 1.7
    assert list(stream.ask(QUESTION, max_tokens=24).tokens) == punished != plainly
    assert list(stream.ask(QUESTION, max_tokens=24, repetition_penalty=1.0).tokens) == plainly
    with pytest.raises(ValueError, match="repetition_penalty: must be above 0"):
        stream.ask(QUESTION, repetition_penalty=0.0)


@EVERY
@pytest.mark.parametrize("memory", ["full", "recent:32"])
def test_the_penalty_counts_the_whole_conversation(family, memory, tmp_path):
    """Frames' own text, remembered turns and answers, also over a save; the streaming state forgets none of it."""
    model, shown = kin(family), frames(6, size=TALL)
    turns, answers, differs = [], [], 0
    stream = model.open(memory)
    for number, (question, clip) in enumerate(((QUESTION, shown[:3]), ("w9 w4", shown[3:]), ("w5", []))):
        for frame in clip:
            stream.push(frame)
        turns.append((question, clip))
        inputs = model.inputs(*turns, answers=answers)
        want = plain.generate(model.model, **inputs, max_tokens=12, repetition_penalty=1.3)
        stream.save(tmp_path / str(number))
        stream = model.engine.resume(tmp_path / str(number))
        differs += want != model.generate(inputs, 12)
        found = stream.ask(question, max_tokens=12, repetition_penalty=1.3, remember=True)
        assert list(found.tokens) == want
        answers.append(found.text)
    assert differs, "the penalty shows"
