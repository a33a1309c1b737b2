"""Whole conversations: a stream that remembers writes the rows the chat template would write."""

from __future__ import annotations

import pytest
import torch

import headrace
from headrace.backbones import plain
from headrace.engine import Engine
from headrace.types import Frame
from parity.models import QUESTION, WORDS, Recorder, assistant, frames, random_model, tiny

TOLERANCE = 1e-4
BOTH = pytest.mark.parametrize("clip", ["video", "frame"])

SYSTEM_TEMPLATE = (
    "{{ '<|im_start|>w6\nw7 w8 w9<|im_end|>\n' }}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {"no system message": plain.CHAT_TEMPLATE, "a system message": SYSTEM_TEMPLATE}


def clip_pixels(model, *clips: list[Frame]) -> torch.Tensor:
    """Pixels of several clips of the same length."""
    return torch.cat([model.pixels(clip) for clip in clips])


@BOTH
@pytest.mark.parametrize("memory", ["full", "recent:32"])
def test_a_remembered_conversation_equals_the_plain_model(clip, memory):
    """Frames, a question, its answer, more frames, a question, and one more with no frames between."""
    model = tiny(clip, seed=1)
    first, second = frames(3), frames(3, first=3)
    stream = model.engine.open(memory)
    messages, rows, said = [], [], []
    for question, shown in ((QUESTION, first), ("w9 w4", second), ("w5", [])):
        for frame in shown:
            stream.push(frame)
        messages.append(model.user(question, len(shown)))
        rows += model.clip_rows(len(shown)) if shown else []
        ids = plain.chat_ids(model.tokenizer, messages, rows)
        clips = [first] if question == QUESTION else [first, second]
        want = plain.generate(model.model, ids, clip_pixels(model, *clips), max_tokens=6)
        answer = stream.ask(question, max_tokens=6, remember=True)
        assert list(answer.tokens) == want
        messages.append(assistant(answer.text))
        said.append(want)
    assert said[0] != said[1]
    assert stream.state.cursor.turn == 3


@BOTH
@pytest.mark.parametrize("template", TEMPLATES)
def test_ids_and_logits_of_a_conversation(clip, template, tmp_path):
    """Every row that was run, in order, is the tokenized conversation; every row's logits are transformers'."""
    tokenizer = plain.word_tokenizer(WORDS)
    tokenizer.chat_template = TEMPLATES[template]
    plain.save(random_model(clip, seed=1), tokenizer, tmp_path)
    loaded = headrace.load(str(tmp_path), dtype="float32", device="cpu")
    plain_model, tokenizer = plain.load(tmp_path)
    model = tiny(clip, seed=1)
    recorder = Recorder(loaded.backbone)
    stream = Engine(recorder).open("full")
    first, second = frames(3), frames(3, first=3)
    for frame in first:
        stream.push(frame)
    one = stream.ask("w3 w2 w1?", max_tokens=4, remember=True)
    two = stream.ask("  w8\n", max_tokens=5, remember=True)
    for frame in second:
        stream.push(frame)
    stream.ask(QUESTION, max_tokens=1)
    messages = [
        model.user("w3 w2 w1?", 3),
        assistant(one.text),
        model.user("w8", 0),
        assistant(two.text),
        model.user(QUESTION, 3),
    ]
    ids = plain.chat_ids(tokenizer, messages, 2 * model.clip_rows(3))
    assert ("w7 w8 w9" in tokenizer.decode(ids[0])) == (template == "a system message")
    assert recorder.ids == ids[0].tolist()
    want = plain.forward(plain_model, ids, clip_pixels(model, first, second))
    assert float((recorder.logits_of_all - want).abs().max()) <= TOLERANCE


@BOTH
def test_an_answer_the_model_ended_by_itself(clip, tmp_path):
    """The stop id is not written twice: it comes with the text that follows the answer."""
    model, tokenizer, twin = random_model(clip, seed=1), plain.word_tokenizer(WORDS), tiny(clip, seed=1)
    ids, px = twin.ids(QUESTION, 3), twin.pixels(frames(3))
    endless = plain.generate(model, ids, px, max_tokens=20)
    at = max(endless.index(token) for token in endless)
    model.lm_head.weight[plain.SPECIAL_TOKENS.index("<|im_end|>")] = model.lm_head.weight[endless[at]] * 1.01
    plain.save(model, tokenizer, tmp_path)
    recorder = Recorder(headrace.load(str(tmp_path), dtype="float32", device="cpu").backbone)
    stream = Engine(recorder).open("full")
    for frame in frames(3):
        stream.push(frame)
    answer = stream.ask(QUESTION, max_tokens=20, remember=True)
    assert list(answer.tokens) == plain.generate(model, ids, px, max_tokens=20) == endless[:at]
    assert answer.finish == "stop"
    assert at > 0
    stream.ask("w5", max_tokens=1)
    messages = [twin.user(QUESTION, 3), assistant(answer.text), twin.user("w5", 0)]
    assert recorder.ids == plain.chat_ids(tokenizer, messages, twin.clip_rows(3))[0].tolist()


@BOTH
def test_an_answer_that_is_empty_is_remembered_as_such(clip, tmp_path):
    model = random_model(clip, seed=1)
    tokenizer = plain.word_tokenizer(WORDS)
    ids = tiny(clip, seed=1).ids(QUESTION, 3)
    likeliest = plain.forward(model, ids, tiny(clip, seed=1).pixels(frames(3)))[-1].argmax()
    model.lm_head.weight[plain.SPECIAL_TOKENS.index("<|im_end|>")] = model.lm_head.weight[likeliest] * 2
    plain.save(model, tokenizer, tmp_path)
    recorder = Recorder(headrace.load(str(tmp_path), dtype="float32", device="cpu").backbone)
    for memory in ("full", "recent"):
        stream = Engine(recorder).open(memory)
        for frame in frames(3):
            stream.push(frame)
        answer = stream.ask(QUESTION, remember=True)
        assert (answer.text, answer.tokens, answer.finish) == ("", (), "stop")
        stream.push(frames(1, first=3)[0])
        assert stream.ask("w5", max_tokens=1).frames_seen == 4
