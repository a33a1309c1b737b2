"""Between the layers: deepstack features, pruned rows, and the attention an answer rests on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from headrace.backbones import plain
from headrace.backbones.decoder import extend
from headrace.cache import CacheContext
from headrace.engine import Engine, Pipeline
from headrace.types import Cursor, Kind, Segment, join
from parity.models import QUESTION, Recorder, Tiny, frames, random_model, tiny

TOLERANCE = 1e-4


@dataclass(frozen=True)
class DropAfter:
    """Keep the given share of the visual rows after some layers."""

    every: dict[int, int]
    causal: ClassVar[bool] = True

    def keep(self, layer: int, h: Tensor, visual: Tensor) -> Tensor | None:
        if layer not in self.every:
            return None
        number = torch.cumsum(visual.long(), 0)
        return torch.nonzero(~visual | (number % self.every[layer] == 0)).squeeze(1)


def prompt(model: Tiny, num: int) -> Segment:
    """Prefix, clip and question as one placed segment."""
    backbone, seen = model.engine.backbone, frames(num)
    with torch.no_grad():
        clip = backbone.wrap(backbone.vision(backbone.pixels(seen), seen), Cursor())
    open_clip = Cursor(clip_open=True)
    parts = [backbone.open(), clip, backbone.close_clip(open_clip), backbone.turn(QUESTION, open_clip)]
    return backbone.place(Cursor(), join([part for part in parts if part is not None]))[0]


def run(model: Tiny, segment: Segment, **options) -> tuple[Tensor, CacheContext]:
    backbone = model.engine.backbone
    context = CacheContext(backbone.spec, [], next_row=0, positions="original")
    with torch.no_grad():
        return extend(model.model.model.language_model, backbone.spec, segment, context, **options), context


def by_hand(model: Tiny, segment: Segment, pruner: DropAfter | None = None) -> Tensor:
    """transformers' own layer modules one by one, on the rows that are left, at their original positions."""
    decoder = model.model.model.language_model
    h, rows = segment.embeds[None], torch.arange(len(segment))
    with torch.no_grad():
        for index, layer in enumerate(decoder.layers):
            turned = decoder.rotary_emb(h, segment.ids[:, rows])
            out = layer(h, attention_mask=None, position_ids=segment.ids[:, rows], position_embeddings=turned)
            h = (out[0] if isinstance(out, tuple) else out).clone()
            if segment.deep is not None and index < segment.deep.shape[0]:
                shown = torch.nonzero(segment.kind == Kind.VISUAL).squeeze(1)
                for feature, row in zip(segment.deep[index], shown.tolist(), strict=True):
                    h[0, rows == row] += feature
            kept = None
            if pruner is not None and index < len(decoder.layers) - 1:
                kept = pruner.keep(index, h[0], segment.kind[rows] == Kind.VISUAL)
            if kept is not None:
                h, rows = h[:, kept], rows[kept]
        return decoder.norm(h)[0]


def close(a: Tensor, b: Tensor) -> bool:
    assert a.shape == b.shape
    return float((a - b).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("clip", ["video", "frame"])
@pytest.mark.parametrize("drops", [{0: 2}, {1: 2}, {0: 2, 1: 3}])
def test_a_pruner_equals_the_layers_on_the_kept_rows(clip, drops):
    model = tiny(clip, seed=1)
    segment, pruner = prompt(model, 7), DropAfter(drops)
    got, context = run(model, segment, pruner=pruner)
    assert len(got) < len(segment)
    assert close(got, by_hand(model, segment, pruner))
    lengths = [len(layer.rows) for layer in context.finish().layers]
    assert lengths[0] == len(segment)
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == len(got)


@pytest.mark.parametrize("clip", ["video", "frame"])
@pytest.mark.parametrize("chunk", [1, 3, 6])
@pytest.mark.parametrize("drops", [{0: 2}, {1: 4}, {0: 2, 1: 2}])
def test_a_pruned_stream_equals_one_pass_over_the_layers(clip, chunk, drops):
    """Layers of different lengths in the cache; a question sees in each layer what that layer kept."""
    model, pruner = tiny(clip, seed=1), DropAfter(drops)
    recorder = Recorder(model.engine.backbone)
    pipeline = replace(Pipeline.parse("full+keep_all", chunk_frames=chunk), pruner=pruner)
    stream = Engine(recorder).open(pipeline)
    for frame in frames(6):
        stream.push(frame)
    cache = stream.state.memory.cache
    cache.check()
    assert cache.num_rows(0) > cache.num_rows(2)
    stream.ask(QUESTION, max_tokens=1)
    want = model.engine.backbone.logits(by_hand(model, prompt(model, 6), pruner))
    assert close(recorder.logits_of_all, want)


def test_the_last_layer_is_never_pruned():
    model = tiny(seed=1)
    segment = prompt(model, 3)
    assert len(run(model, segment, pruner=DropAfter({2: 2}))[0]) == len(segment)


@pytest.mark.parametrize("num_deep", [1, 2, 3])
@pytest.mark.parametrize("drops", [None, {0: 2}, {0: 2, 1: 2}])
def test_deepstack_equals_adding_by_hand(num_deep, drops):
    model = tiny(seed=1)
    segment = prompt(model, 5)
    deep = torch.randn(num_deep, 20, segment.embeds.shape[1])
    segment = replace(segment, deep=deep)
    pruner = None if drops is None else DropAfter(drops)
    got, _ = run(model, segment, pruner=pruner)
    assert close(got, by_hand(model, segment, pruner))
    plain_rows, _ = run(model, replace(segment, deep=None), pruner=pruner)
    assert not close(got, plain_rows)


@pytest.mark.parametrize("drops", [None, {0: 2}])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("outputs", [0, 1, 5, 1000])
def test_fewer_outputs_are_the_last_rows_and_leave_the_same_keys(outputs, deep, drops):
    model = tiny(seed=1)
    segment = prompt(model, 5)
    if deep:
        segment = replace(segment, deep=torch.randn(3, 20, segment.embeds.shape[1]))
    pruner = None if drops is None else DropAfter(drops)
    whole, all_rows = run(model, segment, pruner=pruner)
    got, some_rows = run(model, segment, pruner=pruner, outputs=outputs)
    assert close(got, whole[max(0, len(whole) - outputs) :]) if outputs else got.shape[0] == 0
    for a, b in zip(all_rows.finish().layers, some_rows.finish().layers, strict=True):
        assert torch.equal(a.rows, b.rows)
        assert close(a.keys, b.keys)
        assert close(a.values, b.values)


@pytest.mark.parametrize("clip", ["video", "frame"])
@pytest.mark.parametrize("pipeline", ["full", "recent:32", "streamingllm"])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_evidence_is_the_attention_of_the_last_prompt_row(clip, pipeline, kv_heads):
    """The yardstick asks transformers' own attention, which is another kernel there, for its weights."""
    model = tiny(clip, seed=1, num_key_value_heads=kv_heads)
    stream = model.engine.open(pipeline)
    for frame in frames(7):
        stream.push(frame)
    answer = stream.ask(QUESTION, max_tokens=3, evidence=7)
    twin = random_model(clip, seed=1, num_key_value_heads=kv_heads)
    twin.set_attn_implementation("eager")
    ids = model.ids(QUESTION, 7)
    with torch.inference_mode():
        out = twin(input_ids=ids, pixel_values_videos=model.pixels(frames(7)), output_attentions=True, use_cache=False)
    mass = torch.stack([layer[0, :, -1] for layer in out.attentions]).mean(dim=(0, 1))
    at = torch.nonzero(ids[0] == ids[0].mode().values).squeeze(1)
    per_frame = 4 if clip == "video" else 5
    want = {i: float(mass[at[i * per_frame : (i + 1) * per_frame]].sum()) for i in range(7)}
    got = {moment.frame: moment.score for moment in answer.evidence}
    assert got == pytest.approx(want, abs=1e-5)
    assert [m.score for m in answer.evidence] == sorted(got.values(), reverse=True)
    assert [m.time_s for m in answer.evidence] == [float(m.frame) for m in answer.evidence]
    assert 0 < sum(got.values()) <= 1
    assert max(got.values()) - min(got.values()) > 1e-3, "attention this even proves nothing"
    assert stream.ask(QUESTION, max_tokens=1, evidence=2).evidence == answer.evidence[:2]
    assert stream.ask(QUESTION, max_tokens=1, evidence=0).evidence == ()


def test_evidence_names_only_frames_the_memory_holds():
    model = tiny(seed=1)
    for pipeline, oldest in (("recent:4", 26), ("streamingllm:40", 20), ("full", 0)):
        stream = model.engine.open(pipeline)
        for frame in frames(30):
            stream.push(frame)
        moments = stream.ask(QUESTION, max_tokens=1, evidence=50).evidence
        assert {m.frame for m in moments} == set(range(oldest, 30))
        assert sum(m.score for m in moments) <= 1


def test_yardstick_takes_its_rows_one_segment_at_a_time():
    """The yardstick itself: without pruner or features it is transformers' decoder."""
    model = tiny(seed=1)
    segment = prompt(model, 5)
    assert close(by_hand(model, segment), plain.prefill(model.model, segment.embeds)[0])
