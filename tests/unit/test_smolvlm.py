"""SmolVLM2's own: the text around frames, the two steps of its pictures, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.smolvlm.video_processing_smolvlm import get_resize_output_image_size

import headrace
from headrace.backbones import ModelError, adopt, plain
from headrace.backbones.plain import smolvlm as yardstick
from headrace.engine import Engine
from headrace.types import Cursor, Frame, Kind
from parity.families import write
from parity.models import Recorder, frames

QUESTIONS = ["What now?", "  where is it\n", "3 things?", "\tand?", "...", "what\n\nwhat"]


def bytewise() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with single digits and merges over white space, as the released one splits text."""
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    backend.decoder = decoders.ByteLevel()
    texts = [yardstick.INTRO, "\n\n", ".\n", "video.\n\nFrame from 00:01:", "Assistant: what now", *QUESTIONS] * 9
    letters = pre_tokenizers.ByteLevel.alphabet()
    special = list(yardstick.SPECIAL_TOKENS)
    trainer = trainers.BpeTrainer(special_tokens=special, vocab_size=500, initial_alphabet=letters)
    backend.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<end_of_utterance>",
        additional_special_tokens=list(yardstick.SPECIAL_TOKENS[4:]),
    )
    assert len(made("a\n\n", add_special_tokens=False).input_ids) == 2, "white space must have merges to be a test"
    return made


@pytest.fixture(scope="module")
def served():
    tokenizer = bytewise()
    return adopt(plain.build(yardstick.tiny_config(len(tokenizer)), gain=6.0), tokenizer, name="bytes")


@pytest.mark.parametrize("question", QUESTIONS)
def test_pieces_tokenize_as_the_whole_conversation(served, question):
    """A stream never tokenizes the whole text; the ids are those of the whole text nevertheless."""
    recorder = Recorder(served)
    stream, shown = Engine(recorder).open("full"), frames(5)
    messages, clips = [], []
    for asked, clip in ((question, shown[:2]), ("What now?", []), (question, shown[2:])):
        for frame in clip:
            stream.push(frame)
        stream.ask(asked, max_tokens=1, remember=True)
        messages += [plain.turn("user", asked, videos=int(bool(clip))), plain.turn("assistant", "ANSWER")]
        clips += [plain.Clip(clip, served.pixels(clip))] if clip else []
    ids = yardstick.inputs(served._model, served.tokenizer, messages[:-1], clips)["ids"][0].tolist()
    written = [
        -1 if kind == Kind.ANSWER else yardstick.SPECIAL_TOKENS.index("<image>") if token < 0 else token
        for segment in recorder.segments
        for token, kind in zip(segment.tokens.tolist(), segment.kind.tolist(), strict=True)
    ]
    mark = served.tokenizer(" ANSWER", add_special_tokens=False).input_ids
    for at in reversed([i for i in range(len(ids)) if ids[i : i + len(mark)] == mark]):
        ids[at : at + len(mark)] = [-1]
    assert written[:-1] == ids


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0.0, "00:00"), (0.999, "00:00"), (59.99, "00:59"), (60.0, "01:00"), (4503.4, "75:03"), (600_000.0, "10000:00")],
)
def test_times_are_minutes_and_whole_seconds(served, time_s, text):
    (frame,) = frames(1)
    frame = replace(frame, time_s=time_s)
    rows = served.wrap(served.vision(served.pixels([frame]), [frame]), Cursor())
    said = served.tokenizer.decode(rows.tokens[rows.tokens >= 0])
    assert said == f"\nFrame from {text}:<fake_token_around_image><global-img><fake_token_around_image>"
    assert len(rows) - 4 <= served.spec.around_rows
    assert rows.frame.tolist() == [0] * len(rows)
    assert rows.time_s.unique().tolist() == [time_s]
    assert rows.ids[0].tolist() == list(range(len(rows)))


def test_dropped_tokens_leave_gaps(served):
    shown = frames(2)
    tokens = served.vision(served.pixels(shown), shown).take(torch.tensor([0, 3, 5]))
    rows = served.wrap(tokens, Cursor())
    at = torch.nonzero(rows.kind == Kind.VISUAL).squeeze(1)
    around = (rows.advance - 8) // 2
    assert rows.ids[0, at].tolist() == [around - 1, around + 2, 2 * around + 4]
    assert rows.frame[at].tolist() == [0, 0, 1]


def test_the_intro_says_nothing_of_frames_to_come(served):
    before = served.tokenizer.decode(served.open().tokens)
    assert before == "<|im_start|>User: " + yardstick.INTRO
    assert not any(character.isdigit() for character in before)


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (100, 100), (33, 200), (301, 97), (1, 500), (720, 1281)])
def test_the_first_step_is_transformers_own_size(served, size):
    frame = Frame(0, 0.0, torch.zeros(*size, 3, dtype=torch.uint8))
    assert served._scaled(frame) == get_resize_output_image_size(torch.zeros(1, 3, *size), 4 * 27)


def test_both_steps_matter(served):
    (frame,), pictures = frames(1, size=(180, 320)), served._pictures
    once = pictures.normalise(pictures.resize([frame], 27, 27))
    assert not torch.equal(served.pixels([frame]), once)


def change(folder: Path, name: str = "preprocessor_config.json", **fields) -> None:
    path = folder / name
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def load(folder: Path):
    return headrace.load(str(folder), dtype="float32", device="cpu").backbone


def test_size_wins_over_what_video_sampling_says(tmp_path):
    write("smolvlm", tmp_path)
    assert load(tmp_path)._long_side == 108
    change(tmp_path, size=None)
    assert load(tmp_path)._long_side == 27
    change(tmp_path, size={"longest_edge": 9000})
    assert load(tmp_path)._long_side == 4096
    change(tmp_path, size=None, video_sampling=None)
    assert load(tmp_path)._long_side == 4 * 364


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_image_size": {"longest_edge": 512}}, "max_image_size"),
        ({"max_image_size": 24}, "max_image_size"),
        ({"size": {"height": 24, "width": 24}}, "longest_edge"),
        ({"size": 24}, "longest_edge"),
        ({"size": {"longest_edge": 0}}, "longest_edge"),
        ({"resample": 4}, "resample"),
    ],
)
def test_a_processor_file_that_is_another_models(tmp_path, fields, named):
    write("smolvlm", tmp_path)
    change(tmp_path, **fields)
    with pytest.raises(ModelError, match=named):
        load(tmp_path)


def test_a_scale_factor_that_does_not_divide_the_grid(tmp_path):
    write("smolvlm", tmp_path)
    change(tmp_path, "config.json", scale_factor=3)
    with pytest.raises(ModelError, match=r"(scale_factor|misshapen)"):
        load(tmp_path)


def test_a_tokenizer_without_the_delimiters(tmp_path):
    write("smolvlm", tmp_path)
    words = [f"w{i}" for i in range(9)]
    plain.word_tokenizer(words).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="<fake_token_around_image>"):
        load(tmp_path)
