"""What a checkpoint says of generating: which ids end an answer, and what is told when it is not followed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from transformers import GenerationConfig

import headrace
from headrace.backbones import plain
from headrace.backbones.generating import UNFOLLOWED, warn_unfollowed
from parity.families import write
from parity.models import frames
from unit.tiny import run

ODD = {
    "bad_words_ids": [[7]],
    "begin_suppress_tokens": [7],
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.4,
    "exponential_decay_length_penalty": [3, 1.1],
    "forced_eos_token_id": 5,
    "guidance_scale": 1.5,
    "min_length": 3,
    "min_new_tokens": 8,
    "no_repeat_ngram_size": 2,
    "num_beams": 2,
    "sequence_bias": [[[7], -9.0]],
    "stop_strings": ["w1"],
    "suppress_tokens": [7],
    "watermarking_config": {"bias": 2.0},
}
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}


@pytest.fixture
def told(caplog, monkeypatch):
    """Lines that models have to say, wherever the command line sends them."""
    log = logging.getLogger("headrace.backbones")
    monkeypatch.setattr(log, "propagate", False)
    log.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.name == "headrace.backbones"]
    log.removeHandler(caplog.handler)


def generation(folder: Path, **fields) -> None:
    (folder / "generation_config.json").write_text(json.dumps(fields))


def load(folder: Path):
    return headrace.load(str(folder), dtype="float32", device="cpu").backbone


def test_every_setting_that_is_not_followed_is_tried():
    assert set(ODD) == set(UNFOLLOWED)


@pytest.mark.parametrize("field", UNFOLLOWED)
def test_a_setting_that_changes_answers_is_told(field, told):
    warn_unfollowed(GenerationConfig(**{field: ODD[field]}), "x")
    warn_unfollowed(GenerationConfig(**{field: UNFOLLOWED[field]}), "x")
    (line,) = told()
    assert line.startswith(f"model 'x': its generation settings have {field}, which is not followed")


def test_a_checkpoint_says_all_of_it_in_one_line(tmp_path, told):
    write("smolvlm", tmp_path)
    generation(tmp_path, **SAMPLING)
    load(tmp_path)
    assert told() == [], "sampling is a question's own, and the repetition penalty is followed"
    generation(tmp_path, no_repeat_ngram_size=2, suppress_tokens=[7], **SAMPLING)
    load(tmp_path)
    (line,) = told()
    assert line.startswith(f"model '{tmp_path}': ")
    assert "have no_repeat_ngram_size, suppress_tokens, which" in line
    code, _, stderr = run("ask", "world:7,seconds=2", "w1", "--model", str(tmp_path), "--max-tokens", "1")
    assert code == 0
    assert "no_repeat_ngram_size" in stderr


@pytest.mark.parametrize(
    ("named", "stops"), [([9], (3, 9)), (9, (3, 9)), ([], (3, 11)), (None, (3, 11)), ([3, 9], (3, 9))]
)
def test_ids_that_generate_stops_at_end_an_answer_and_no_others(tmp_path, named, stops):
    """The decoder's own count where the generation configuration names none: they may be a default of its class."""
    write("smolvlm", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 11
    (tmp_path / "config.json").write_text(json.dumps(config))
    generation(tmp_path, eos_token_id=named)
    assert load(tmp_path).spec.stop_ids == stops


def test_an_answer_goes_on_where_generate_goes_on(tmp_path):
    """The class default of a Llama decoder is 2, which is an ordinary word elsewhere."""
    model, tokenizer = plain.tiny("smolvlm", ["w1", "w2", "w3"], seed=1, gain=10.0)
    plain.save(model, tokenizer, tmp_path)
    engine = headrace.load(str(tmp_path), dtype="float32", device="cpu")

    def said():
        stream = headrace.load(str(tmp_path), dtype="float32", device="cpu").open()
        for frame in frames(2):
            stream.push(frame)
        return stream.ask("w1 w2", max_tokens=8).tokens

    before = said()
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["eos_token_id"] = before[3]
    (tmp_path / "config.json").write_text(json.dumps(config))
    generation(tmp_path, eos_token_id=list(engine.backbone.spec.stop_ids))
    assert said() == before
    assert len(before) == 8
