"""Loading a model: what works, and one clear line for everything that cannot."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import headrace
from headrace.backbones import ModelError, plain
from headrace.backbones.loading import fingerprint
from parity.models import QUESTION, WORDS, frames, random_model, tiny


@pytest.fixture
def folder(tmp_path) -> Path:
    plain.save(random_model(seed=1), plain.word_tokenizer(WORDS), tmp_path)
    return tmp_path


def load(name, **options):
    return headrace.load(str(name), **{"dtype": "float32", "device": "cpu", **options})


def refused(name, *named: str, **options) -> str:
    """Load, and return the one line that says why not."""
    with pytest.raises(ValueError) as raised:
        load(name, **options)
    line = str(raised.value)
    assert "\n" not in line
    assert len(line) < 500
    for part in (*named, *(() if options else (str(name),))):
        assert part in line, f"{part!r} is not in {line!r}"
    return line


def edit(path: Path, **fields) -> None:
    """Change fields of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def answer(engine) -> tuple[int, ...]:
    stream = engine.open()
    for frame in frames(3):
        stream.push(frame)
    return stream.ask(QUESTION, max_tokens=8).tokens


def test_a_folder_save_pretrained_wrote(folder):
    assert answer(load(folder)) == answer(tiny(seed=1).engine)


def test_sharded(tmp_path):
    plain.save(random_model(seed=1), plain.word_tokenizer(WORDS), tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert answer(load(tmp_path)) == answer(tiny(seed=1).engine)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", torch.bfloat16])
def test_dtypes(folder, dtype):
    spec = load(folder, dtype=dtype).backbone.spec
    assert spec.dtype == (dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype))
    assert spec.rope.inv_freq.dtype == torch.float32


def test_the_spec_says_what_the_model_is(folder):
    spec = load(folder).backbone.spec
    assert (spec.family, spec.name) == ("llava_onevision", str(folder))
    assert (spec.layers, spec.heads, spec.kv_heads, spec.head_dim, spec.dim) == (3, 4, 2, 8, 32)
    assert (spec.grid, spec.vision_layers, spec.vision_dim, spec.frames_per_step) == ((2, 2), 3, 24, 1)
    assert spec.scale == pytest.approx(8**-0.5)
    assert spec.stop_ids == (plain.SPECIAL_TOKENS.index("<|im_end|>"),)
    assert spec.row_bytes == 3 * 2 * 8 * 2 * 4


def test_fingerprints_tell_models_apart(folder):
    same, other = load(folder).backbone.spec, tiny(seed=2).engine.backbone.spec
    assert same.fingerprint == tiny(seed=1).engine.backbone.spec.fingerprint != other.fingerprint


def test_any_training_and_any_setting_is_found(folder):
    """Whatever answers may depend on: a saved stream, and rows of a bench, belong to one model."""
    engine = load(folder)
    model, settings = engine.backbone._model, {"positions": "repack"}
    prints = [fingerprint(model, settings), fingerprint(model, {"positions": "original"})]
    for name, weight in model.named_parameters():
        with torch.no_grad():
            weight.view(-1)[-1] += 0.25  # the last value; the first ones stay
        prints.append(fingerprint(model, settings))
        assert len(set(prints)) == len(prints), name
    large = torch.nn.Linear(512, 512)
    before = fingerprint(large, {})
    with torch.no_grad():
        large.weight += 1e-3
        large.weight.view(-1)[:8] -= 1e-3
    assert fingerprint(large, {}) != before


def test_the_position_policy_of_the_configuration_belongs_to_the_model(folder):
    before = load(folder).backbone.spec
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "headrace": {"positions": "original"}}))
    after = load(folder).backbone.spec
    assert (before.positions, after.positions) == ("repack", "original")
    assert before.fingerprint != after.fingerprint


def test_generation_config_adds_stop_ids(folder):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 9]}))
    assert load(folder).backbone.spec.stop_ids == (3, 9)


def test_the_real_layout_without_our_extra_field(folder):
    """A released checkpoint knows nothing of headrace: one newline per clip, positions packed."""
    edit(folder / "config.json", headrace=None)
    assert answer(load(folder)) == answer(tiny(seed=1).engine)


def test_not_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "not a folder")
    refused(tmp_path / "nowhere", "not a folder")
    refused("./nowhere", "not a folder")


def test_a_folder_without_config(folder):
    (folder / "config.json").unlink()
    refused(folder, "config.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_type": 3}', '{"model_type": "no_such_family"}', "\x00"])
def test_a_config_that_cannot_be_used(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder)


@pytest.mark.parametrize("family", ["llama", "bert", "llava"])
def test_a_family_that_is_not_supported(tmp_path, family):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    refused(tmp_path, repr(family), "llava_onevision")


@pytest.mark.parametrize("name", ["someone/no-such-model", "no-such-model", "not a name at all", "a/b/c"])
@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_name_that_is_not_here(name, offline):
    """The tests run without a network, so both fail; neither with a page of advice."""
    refused(name, name, offline=offline)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "weights")


def test_only_pickled_weights_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "safetensors" in refused(folder, "weights")


def test_a_missing_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if "layers.1" in name and "mlp" in name)
    save_file({k: v for k, v in weights.items() if k != gone}, folder / "model.safetensors", {"format": "pt"})
    refused(folder, "missing")


def test_a_misshapen_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "image_newline" in name)
    weights[name] = torch.zeros(7)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(folder, "weights", name)


def test_a_shard_that_is_missing(tmp_path):
    plain.save(random_model(seed=1), plain.word_tokenizer(WORDS), tmp_path, max_shard_size="40KB")
    sorted(tmp_path.glob("model-*.safetensors"))[1].unlink()
    refused(tmp_path, "weights")


@pytest.mark.parametrize("size", [0, 4, 1000])
def test_weights_that_were_cut_off(folder, size):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:size])
    refused(folder, "weights")


def test_no_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    refused(folder, "tokenizer")


def test_a_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")
    refused(folder, "tokenizer")


def test_no_chat_template(folder):
    (folder / "chat_template.jinja").unlink()
    refused(folder, "chat template")


def test_a_tokenizer_with_more_words_than_the_model(tmp_path):
    plain.save(random_model(seed=1), plain.word_tokenizer((*WORDS, "more", "words")), tmp_path)
    refused(tmp_path, "tokenizer")


def test_a_processor_file_that_is_no_json(folder):
    (folder / "processor_config.json").write_text("{")
    refused(folder, "processor_config.json")


@pytest.mark.parametrize("size", [{"height": 56, "width": 56}, {"shortest_edge": 28}, 28, {"height": 28}])
def test_a_processor_size_that_is_not_the_towers(folder, size):
    edit(folder / "video_preprocessor_config.json", size=size)
    refused(folder, "size")


def test_a_crop_is_refused_where_it_would_change_a_frame(folder):
    path = folder / "video_preprocessor_config.json"
    edit(path, do_center_crop=True, crop_size=json.loads(path.read_text())["size"])
    assert answer(load(folder)) == answer(tiny(seed=1).engine)
    for crop in ({"height": 20, "width": 20}, 20, None):
        edit(path, crop_size=crop)
        refused(folder, "do_center_crop")
    edit(path, do_center_crop=False)
    load(folder)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_change_with_the_length_are_refused(folder, kind):
    text = json.loads((folder / "config.json").read_text())["text_config"]
    half = [1.0] * 4
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, "short_factor": half, "long_factor": half}
    rope["original_max_position_embeddings"] = 1024
    edit(folder / "config.json", text_config={**text, "rope_parameters": rope})
    refused(folder, "rope_type", kind)


@pytest.mark.parametrize("layer", [0, 2, -4, -9])
def test_vision_layers_that_are_not_supported(folder, layer):
    edit(folder / "config.json", vision_feature_layer=layer)
    refused(folder, "vision_feature_layer")


def test_several_vision_layers_at_once_are_not_supported(folder):
    edit(folder / "config.json", vision_feature_layer=[-2, -1])
    refused(folder)


def test_a_select_strategy_that_is_not_supported(folder):
    edit(folder / "config.json", vision_feature_select_strategy="default")
    refused(folder, "full")


@pytest.mark.parametrize("dtype", ["float8", "", "int8", "half", torch.int8, torch.float64])
def test_wrong_dtypes(folder, dtype):
    assert refused(folder, str(dtype), dtype=dtype).startswith("dtype: ")


@pytest.mark.parametrize("device", ["nowhere", "", "cpu:x", "cuda:99"])
def test_wrong_devices(folder, device):
    assert refused(folder, repr(device), device=device).startswith("device: ")


def test_every_refusal_about_the_model_is_one_kind_of_error(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=re.escape(str(folder))):
        load(folder)


def test_no_remote_code(folder):
    """A folder that brings its own classes is loaded with ours, or not at all."""
    (folder / "evil.py").write_text("raise SystemExit('ran remote code')")
    edit(folder / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    assert answer(load(folder)) == answer(tiny(seed=1).engine)


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json"])
def test_the_processors_chat_template_goes_before_the_tokenizers(folder, name):
    """transformers 4.45 wrote it there, beside a tokenizer whose own knows text alone."""
    own = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}")
    refused(folder, "chat template: cannot write a conversation about a video")
    before = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps({**before, "chat_template": own}))
    assert answer(load(folder)) == answer(tiny(seed=1).engine)
    (folder / "chat_template.json").write_text("[1]")
    if name == "chat_template.json":
        refused(folder, "chat_template.json cannot be used")


@pytest.mark.parametrize("place", ["folder", "tokenizer_config.json", "chat_template.json", "processor_config.json"])
def test_of_several_chat_templates_the_default_is_taken(folder, place):
    own = (folder / "chat_template.jinja").read_text()
    wrong = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    if place == "folder":
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(wrong)
    else:
        (folder / "chat_template.jinja").unlink()
        before = json.loads((folder / place).read_text()) if (folder / place).exists() else {}
        named = [{"name": "tool_use", "template": wrong}, {"name": "default", "template": own}]
        (folder / place).write_text(json.dumps({**before, "chat_template": named}))
    assert answer(load(folder)) == answer(tiny(seed=1).engine)


def test_several_chat_templates_without_a_default(folder):
    (folder / "additional_chat_templates").mkdir()
    (folder / "chat_template.jinja").rename(folder / "additional_chat_templates" / "tool_use.jinja")
    refused(folder, "chat template: there is one for tool_use, but none called default")
