"""The shipped nano: what its card says, and that plain transformers gets the same answers from it."""

import hashlib
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from headrace.backbones import plain
from headrace.train.answer import answered, run_rows
from headrace.train.clips import film, held_out_world, pixels
from headrace.train.evaluate import evaluate, held_out_clip
from headrace.train.pack import Ask, Words, pack
from headrace.video.world import matches, vocabulary

NANO = Path(str(files("headrace"))) / "weights" / "nano"


@pytest.fixture(scope="module")
def nano():
    model, tokenizer = plain.load(NANO)
    return model, tokenizer, Words(tokenizer)


def test_the_card_belongs_to_the_file():
    weights = NANO / "model.safetensors"
    assert weights.stat().st_size <= 16 * 2**20
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in (NANO / "README.md").read_text()


def test_it_knows_the_words_of_the_first_kinds(nano):
    unknown = nano[1].convert_tokens_to_ids("<|unk|>")
    for kind in ("colour", "where", "motion"):
        assert unknown not in nano[2].ids(Ask(0, kind, "where is the star moving?", "top left"))[0]
    assert {"star", "red", "left"} <= set(vocabulary())


@torch.no_grad()
def test_transformers_generates_the_answers_we_count(nano):
    model, tokenizer, words = nano
    for number in range(3):
        clip = held_out_clip(model, number, 6)
        ticks = [take.ticks[index] for take, index in clip.frames]
        logits, _ = run_rows(model, pack([clip], words))
        videos = pixels(film(held_out_world(number), ticks))[:, None]
        for ask, right in zip(clip.asks, answered(logits, pack([clip], words)), strict=True):
            content = [{"type": "video"}] * 6 + [{"type": "text", "text": ask.text}]
            ids = plain.chat_ids(tokenizer, [{"role": "user", "content": content}], [65] * 6)
            told = tokenizer.decode(plain.generate(model, ids, videos, max_tokens=4), skip_special_tokens=True)
            assert matches(told, ask.answer) == right


def test_it_sees(nano):
    found = evaluate(nano[0], nano[2], clips=15, frames=8)
    assert found.model.by_kind["digit"] >= 0.8
    assert found.model.by_kind["colour"] >= 0.7
    assert found.model.macro > found.majority.macro + 0.2
