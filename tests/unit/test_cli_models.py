"""``headrace models``: every family has a row, and the bytes are those a memory would hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from headrace.backbones import FAMILIES, adopt, plain
from headrace.types import Cursor, View
from parity.models import frames
from unit.tiny import objects, run


def test_every_family_has_a_row_with_what_it_costs() -> None:
    code, stdout, stderr = run("models", "--json")
    assert (code, stderr) == (0, "")
    rows = objects(stdout)
    assert {row["family"] for row in rows} == set(FAMILIES)
    for row in rows:
        assert row["event"] == "model"
        assert "/" in row["hub_name"]
        assert "tiny random sizes" in row["verified"]
        assert set(row["hour_bytes"]) == {"full", "streamingllm:2048", "recent:16"}
        assert row["hour_bytes"]["recent:16"] < row["hour_bytes"]["full"]
        assert row["hour_bytes"]["streamingllm:2048"] < row["hour_bytes"]["full"]
    by_name = {row["shape"]: row for row in rows}
    # layers, keys and values, heads, width, bf16; a step's tokens and what is around them, and the prefix
    for shape, steps, rows, row in (
        ("llava-onevision-0.5b", 3600, 196, 24 * 2 * 2 * 64 * 2),
        ("qwen2.5-vl-3b", 1800, 120, 36 * 2 * 2 * 128 * 2),
        ("qwen3-vl-2b", 1800, 120 + 11, 28 * 2 * 8 * 128 * 2),
        ("smolvlm2-500m", 3600, 64 + 13, 32 * 2 * 5 * 64 * 2),
    ):
        assert 0 <= by_name[shape]["hour_bytes"]["full"] - steps * rows * row < 30 * row, shape
    for shape, millions in (("smolvlm2-256m", 256), ("smolvlm2-500m", 507), ("smolvlm2-2.2b", 2247)):
        assert round(by_name[shape]["parameters"] / 1e6) in range(millions - 1, millions + 2)
    assert by_name["smolvlm2-500m"]["tokens_per_step"] == 64
    assert by_name["smolvlm2-2.2b"]["tokens_per_step"] == 81


def released_like(family: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that splits as the released ones: digits one by one, common words whole."""
    qwen = family.startswith("qwen")
    cut = r" ?\p{L}+|\p{N}|\s+|[^\s\p{L}\p{N}]+"
    first = pre_tokenizers.Split(Regex(cut), "isolated") if qwen else pre_tokenizers.Digits(individual_digits=True)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not qwen)]
    )
    special, letters = list(plain.of(family).SPECIAL_TOKENS), pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=special, initial_alphabet=letters, show_progress=False)
    words = " user assistant system You are a helpful provided the following series of frames from video seconds Frame"
    backend.train_from_iterator([words, "\nFrame from ", "User: ", " seconds>", "\n\n"] * 9, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=special[3], additional_special_tokens=special)
    made.chat_template = plain.word_tokenizer([], family).chat_template
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_around_a_step_are_those_of_the_released_tokenizers(family) -> None:
    """Words of a tokenizer for tests are fewer; the last second of an hour takes the most."""
    backbone = adopt(plain.build(plain.of(family).tiny_config(600)), released_like(family))
    shown = [replace(frame, time_s=3599.0 + frame.index) for frame in frames(backbone.spec.frames_per_step)]
    backbone = backbone.at(backbone.choose(View(), shown[0]))
    tokens = backbone.vision(backbone.pixels(shown), shown)
    assert len(backbone.wrap(tokens, Cursor())) - len(tokens) == plain.of(family).AROUND


def test_the_table_names_hub_names_and_what_was_verified() -> None:
    code, stdout, _ = run("models")
    assert code == 0
    for word in (
        "SmolVLM2-500M-Video-Instruct",
        "streamingllm:2048",
        "released weights were not run",
        "640 x 360 frames",
    ):
        assert word in " ".join(stdout.split())


def test_a_wrong_argument_is_refused() -> None:
    code, _, stderr = run("models", "smolvlm")
    assert code != 0
    assert "smolvlm" in stderr
