"""Decoders and towers a configuration may name: those that are served equal transformers, the others are refused."""

from __future__ import annotations

import json

import pytest

import headrace
from headrace.backbones import ModelError, plain
from headrace.backbones.decoder import DECODERS
from parity.families import write
from parity.models import QUESTION, Recorder, frames, tiny

TOLERANCE = 1e-4
OTHERS = ("cohere", "gemma2", "gemma3_text", "granite", "olmo2", "phi3", "qwen2_moe", "smollm3", "stablelm")
WINDOWS = {
    "mistral": {"sliding_window": 5},
    "qwen2": {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1},
    "starcoder2": {"sliding_window": 5},
}


def off(**text) -> float:
    """How far the logits of a whole conversation are from transformers', of whose size they are."""
    model, shown = tiny(seed=3, head_dim=8, num_key_value_heads=2, **text), frames(6)
    ids, recorder = model.ids(QUESTION, 6), Recorder(model.engine.backbone)
    stream = headrace.Engine(recorder).open("full")
    for frame in shown:
        stream.push(frame)
    said = stream.ask(QUESTION, max_tokens=8).tokens
    want = plain.forward(model.model, ids, model.pixels(shown))
    assert float(want.abs().max()) > 0.5, "logits this small are equal by accident"
    assert list(said) == plain.generate(model.model, ids, model.pixels(shown), max_tokens=8)
    return float((recorder.logits_of_all[: len(want)] - want).abs().max())


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_that_is_served_equals_transformers(kind):
    assert off(model_type=kind) <= TOLERANCE


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_sliding_window_is_seen_whatever_the_configuration_calls_it(kind):
    text = {"model_type": kind, **WINDOWS[kind]}
    model = tiny(seed=3, head_dim=8, num_key_value_heads=2, **text)
    assert 5 in model.engine.backbone.spec.windows
    assert off(**text) <= TOLERANCE


def change(folder, part: str, kind: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[part]["model_type"] = kind
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("family", ["llava_onevision", "smolvlm"])
@pytest.mark.parametrize("kind", OTHERS)
def test_another_decoder_is_refused_by_name(family, kind, tmp_path):
    """Some would answer, wrongly; and before any weights are read."""
    write(family, tmp_path)
    change(tmp_path, "text_config", kind)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError) as raised:
        headrace.load(str(tmp_path), dtype="float32", device="cpu")
    assert str(raised.value) == (
        f"model '{tmp_path}': config.json: text_config is of type {kind!r}; supported: {', '.join(DECODERS)}"
    )


@pytest.mark.parametrize("kind", ["clip_vision_model", "siglip2_vision_model"])
def test_another_tower_is_refused_by_name(kind, tmp_path):
    write("llava_onevision", tmp_path)
    change(tmp_path, "vision_config", kind)
    with pytest.raises(ModelError, match=f"vision_config is of type '{kind}'; supported: siglip_vision_model$"):
        headrace.load(str(tmp_path), dtype="float32", device="cpu")
