"""The re-driven model gives transformers' own logits and tokens, however the stream is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headrace.backbones import plain
from headrace.cache import CacheContext
from headrace.engine import Engine
from headrace.types import Cursor, Kind, join
from parity.models import QUESTION, Recorder, Tiny, frames, tiny

TOLERANCE = 1e-4
BOTH = pytest.mark.parametrize("clip", ["video", "frame"])

# name: decoder fields that change the walk
DECODERS = {
    "one query head per key head": {"num_key_value_heads": 4},
    "one key head for all": {"num_key_value_heads": 1},
    "wide heads": {"num_attention_heads": 2, "num_key_value_heads": 1},
    "tied embeddings": {"tie_word_embeddings": True},
    "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
        }
    },
    "windows from the second layer on": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "windows everywhere": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0},
}


def streamed(model: Tiny, num: int, chunk: int, **asked):
    """Push frames and ask; returns the recorder and the answer."""
    recorder = Recorder(model.engine.backbone)
    stream = Engine(recorder).open("full", chunk_frames=chunk)
    for frame in frames(num):
        stream.push(frame)
    return recorder, stream.ask(QUESTION, **asked)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@BOTH
@pytest.mark.parametrize("num", [1, 7, 32])
def test_logits_of_every_row_and_greedy_tokens(clip, num):
    model = tiny(clip, seed=1)
    ids, px = model.ids(QUESTION, num), model.pixels(frames(num))
    want = plain.forward(model.model, ids, px)
    tokens = plain.generate(model.model, ids, px, max_tokens=12)
    assert len(set(tokens)) > 2, "a model that always says the same proves nothing"
    assert float(want.abs().max()) > 1, "logits this small are equal by accident"
    for chunk in (1, 3, num):
        recorder, answer = streamed(model, num, chunk, max_tokens=12)
        rows = ids.shape[1]
        assert recorder.ids[:rows] == ids[0].tolist()
        assert distance(recorder.logits_of_all[:rows], want) <= TOLERANCE
        assert list(answer.tokens) == tokens
        assert answer.finish == "length"


@BOTH
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_the_stream_as_it_is_skips_rows_and_says_the_same(clip, chunk):
    model = tiny(clip, seed=1)
    stream = model.engine.open("full", chunk_frames=chunk)
    for frame in frames(7):
        stream.push(frame)
    want = plain.generate(model.model, model.ids(QUESTION, 7), model.pixels(frames(7)), max_tokens=24)
    assert list(stream.ask(QUESTION, max_tokens=24).tokens) == want


@BOTH
@pytest.mark.parametrize("name", DECODERS)
def test_every_kind_of_decoder(clip, name):
    model = tiny(clip, seed=1, **_frozen(DECODERS[name]))
    ids, px = model.ids(QUESTION, 7), model.pixels(frames(7))
    want = plain.forward(model.model, ids, px)
    for chunk in (1, 7):
        recorder, answer = streamed(model, 7, chunk, max_tokens=8)
        assert distance(recorder.logits_of_all[: ids.shape[1]], want) <= TOLERANCE
        assert list(answer.tokens) == plain.generate(model.model, ids, px, max_tokens=8)


@pytest.mark.parametrize("name", [name for name in DECODERS if name.startswith("windows")])
def test_windows_are_read_per_layer_and_matter(name):
    model, wide = tiny(seed=1, **_frozen(DECODERS[name])), tiny(seed=1)
    config = DECODERS[name]
    first = config["max_window_layers"]
    assert model.engine.backbone.spec.windows == (None,) * first + (config["sliding_window"],) * (3 - first)
    ids, px = model.ids(QUESTION, 7), model.pixels(frames(7))
    assert distance(plain.forward(model.model, ids, px), plain.forward(wide.model, ids, px)) > 100 * TOLERANCE


@pytest.mark.parametrize("layer", [-1, -2])
@BOTH
def test_vision_feature_layer(clip, layer):
    model = tiny(clip, seed=1, layer=layer)
    recorder, _ = streamed(model, 3, 1, max_tokens=1)
    ids = model.ids(QUESTION, 3)
    want = plain.forward(model.model, ids, model.pixels(frames(3)))
    assert distance(recorder.logits_of_all[: ids.shape[1]], want) <= TOLERANCE


@BOTH
def test_one_forward_over_the_whole_prompt(clip):
    """No stream at all: prefix, clip and question as one segment through an empty memory's Context."""
    model = tiny(clip, seed=1)
    backbone, seen = model.engine.backbone, frames(7)
    cursor = Cursor()
    rows = [backbone.open(), backbone.wrap(backbone.vision(backbone.pixels(seen), seen), cursor)]
    cursor = replace(cursor, clip_open=True)
    rows += [part for part in (backbone.close_clip(cursor), backbone.turn(QUESTION, cursor)) if part is not None]
    whole, _ = backbone.place(Cursor(), join(rows))
    context = CacheContext(backbone.spec, [], next_row=0, positions="original")
    with torch.no_grad():
        got = backbone.logits(backbone.extend(whole, context))
    want = plain.forward(model.model, model.ids(QUESTION, 7), model.pixels(seen))
    assert distance(got, want) <= TOLERANCE


@BOTH
def test_recent_with_room_for_all_equals_the_plain_model(clip):
    model = tiny(clip, seed=1)
    stream = model.engine.open("recent:32")
    for frame in frames(7):
        stream.push(frame)
    want = plain.generate(model.model, model.ids(QUESTION, 7), model.pixels(frames(7)), max_tokens=12)
    assert list(stream.ask(QUESTION, max_tokens=12).tokens) == want


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num", [1, 7, 32])
def test_the_tower_is_exact(dtype, num):
    model, seen = tiny(seed=1, dtype=dtype), frames(num)
    px = model.engine.backbone.pixels(seen)
    assert px.dtype == getattr(torch, dtype)
    with torch.no_grad():
        got = model.engine.backbone.vision(px, seen)
        want = model.model.get_video_features(px[None]).pooler_output
    want = torch.cat(list(want)) if isinstance(want, tuple | list) else want.reshape(-1, want.shape[-1])
    assert torch.equal(want[-1], model.model.model.image_newline)
    assert torch.equal(got.features, want[:-1])
    assert got.frame.tolist() == [i for i in range(num) for _ in range(4)]
    assert got.row.tolist() == [0, 0, 1, 1] * num
    assert got.col.tolist() == [0, 1, 0, 1] * num


def test_bf16_loads_with_frequencies_in_fp32():
    spec = tiny(seed=1, dtype="bfloat16").engine.backbone.spec
    assert spec.dtype == torch.bfloat16
    assert torch.equal(spec.rope.inv_freq, tiny(seed=1).engine.backbone.spec.rope.inv_freq)


def test_bf16_agrees_about_as_well_as_bf16_can():
    model, seen = tiny(seed=1, dtype="bfloat16"), frames(7)
    recorder, _ = streamed(model, 7, 7, max_tokens=1)
    ids = model.ids(QUESTION, 7)
    want = plain.forward(model.model, ids, model.pixels(seen)).float()
    assert distance(recorder.logits_of_all[: ids.shape[1]].float(), want) < 0.15


def test_every_row_says_what_it_is():
    for clip in ("video", "frame"):
        recorder, _ = streamed(tiny(clip, seed=1), 3, 1, max_tokens=2)
        kinds = torch.cat([seg.kind for seg in recorder.segments])
        assert (kinds == Kind.VISUAL).sum() == 12
        assert (kinds == Kind.NEWLINE).sum() == (1 if clip == "video" else 3)
        assert (kinds == Kind.ANSWER).sum() == 1
        shown = torch.cat([seg.frame for seg in recorder.segments])
        assert shown[kinds == Kind.VISUAL].tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert shown[(kinds == Kind.TEXT) | (kinds == Kind.PREFIX) | (kinds == Kind.ANSWER)].unique().tolist() == [-1]


def _frozen(fields: dict) -> dict:
    """The fields with dictionaries that may be a cache's key."""
    return {key: _Frozen(value) if isinstance(value, dict) else value for key, value in fields.items()}


class _Frozen(dict):
    def __hash__(self) -> int:
        return hash(tuple(sorted(self.items())))
