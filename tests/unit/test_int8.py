"""Weight-only int8: what is narrowed and how far off it is, what stays, what is refused, and what loading holds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import headrace
from headrace.backbones import FAMILIES, plain
from headrace.backbones.int8 import NARROW_ROWS, Int8Linear
from headrace.bench.weights import logits_error, weight_bytes
from headrace.engine.saving import SavedStreamError
from parity.families import write
from parity.models import QUESTION, frames
from unit.tiny import objects, run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, NARROW_ROWS, NARROW_ROWS + 1])
@pytest.mark.parametrize("width", [40, 48])  # of one that torch's op cannot read, and of one it can
def test_a_layer_is_its_rounded_weights(dtype, bias, rows, width):
    linear = nn.Linear(width, 24, bias=bias, dtype=dtype).requires_grad_(False)
    linear.weight[3] = 0.0
    narrow = Int8Linear(linear)
    weight = linear.weight.double()
    for i in range(24):
        step = weight[i].abs().max() / 127
        off = (narrow.codes[i].double() * narrow.scale[i].double() - weight[i]).abs().max()
        assert off <= 0.501 * step + 127 * step * (0 if dtype == torch.float32 else 2**-8)
    assert narrow.codes.abs().max() == 127
    x = torch.randn(2, rows, width, dtype=dtype)
    widened = narrow.codes.double() * narrow.scale.double()[:, None]
    for given in (x, x[0]):
        want = nn.functional.linear(given.double(), widened, None if linear.bias is None else linear.bias.double())
        got = narrow(given)
        assert got.dtype == dtype
        assert float((got.double() - want).abs().max()) < (1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_decoders_matrices_are_narrowed(family, tmp_path):
    write(family, tmp_path)
    full, narrow = (load(tmp_path, weights=form) for form in ("full", "int8"))
    layers = narrow._decoder.layers
    assert {type(m) for m in layers.modules() if isinstance(m, nn.Linear | Int8Linear)} == {Int8Linear}
    assert sum(isinstance(m, Int8Linear) for m in narrow._model.modules()) == 7 * narrow.spec.layers
    kept = dict(narrow._model.named_parameters())
    for name, weight in full._model.named_parameters():
        assert torch.equal(kept[name], weight) if name in kept else "layers" in name
    assert weight_bytes(narrow) < weight_bytes(full)
    error = logits_error(full, narrow, frames(4), QUESTION)
    assert 0 < error["mean"] < 0.1 * error["spread"]


def load(folder, **options):
    return headrace.load(str(folder), dtype="float32", device="cpu", **options).backbone


def test_a_saved_stream_goes_on_with_the_same_form_only(tmp_path):
    write("smolvlm", tmp_path / "model")
    full, narrow = (
        headrace.load(str(tmp_path / "model"), dtype="float32", device="cpu", weights=form) for form in ("full", "int8")
    )
    stream = narrow.open("full")
    stream.push(frames(1)[0])
    stream.save(tmp_path / "saved")
    assert narrow.resume(tmp_path / "saved").ask(QUESTION, max_tokens=3) is not None
    with pytest.raises(SavedStreamError):
        full.resume(tmp_path / "saved")


@pytest.mark.parametrize("form", ["int4", "", "INT8", "float8"])
def test_a_form_that_is_unknown(form, tmp_path):
    write("smolvlm", tmp_path)
    with pytest.raises(ValueError, match=f"weights: {form!r} is unknown; known: full, int8"):
        load(tmp_path, weights=form)
    code, stdout, stderr = run("ask", "world:7,seconds=1", "w1", "--model", str(tmp_path), "--weights", form)
    assert (code != 0, stdout) == (True, "")
    assert f"weights: {form!r}" in stderr
    assert len(stderr.strip().splitlines()) == 1


def test_the_command_measures_answers_logits_and_bytes(tmp_path):
    write("llava_onevision", tmp_path)
    code, stdout, stderr = run(
        *(
            "bench",
            "weights",
            "--model",
            str(tmp_path),
            "--seeds",
            "1",
            "--seconds",
            "8",
            "--dtype",
            "float32",
            "--json",
        )
    )
    assert code == 0, stderr
    (found,) = [x for x in objects(stdout) if x["event"] == "weights"]
    assert 0 <= found["share"] <= 1
    assert found["num"] > 3
    assert found["bytes"][1] < found["bytes"][0]
    assert found["logits"]["mean"] > 0


# ru_maxrss would not do: a child starts with its parent's. VmHWM belongs to the process, and 5 sets it back.
PEAK = """
import json, sys
from pathlib import Path
import torch, headrace
from headrace.bench.weights import weight_bytes
torch.set_num_threads(1)
headrace.load(sys.argv[2], dtype="float32", device="cpu")  # imports, allocator, tokenizer

def held(field):
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024

Path("/proc/self/clear_refs").write_text("5")
before = held("VmRSS")
engine = headrace.load(sys.argv[1], dtype="float32", device="cpu", weights=sys.argv[3])
print(json.dumps({"grown": held("VmHWM") - before, "weights": weight_bytes(engine.backbone)}))
"""


@pytest.mark.long
@pytest.mark.parametrize("form", ["full", "int8"])
def test_loading_never_holds_two_copies(tmp_path, form):
    """Some 120 MB of fp32 weights, in a process of its own; the resident peak counts mapped pages of the file too."""
    tokenizer = plain.word_tokenizer(["w1"])
    wide = {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 2048, "num_attention_heads": 8}
    plain.save(plain.build(plain.tiny_config(len(tokenizer), **wide)), tokenizer, tmp_path / "large")
    write("llava_onevision", tmp_path / "small")
    arguments = (str(tmp_path / "large"), str(tmp_path / "small"), form)
    done = subprocess.run([sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    whole = sum(x.stat().st_size for x in (tmp_path / "large").glob("*.safetensors"))
    assert whole > 100e6
    assert found["weights"] < (0.35 if form == "int8" else 1.01) * whole
    assert found["grown"] < 1.5 * whole
    if form == "int8":  # full weights stay mapped and are read when they are first used
        assert found["grown"] > found["weights"]


def test_an_answer_of_a_token_memory_runs_no_rows_at_times() -> None:
    """The last layer of rows that nobody reads has none left to multiply."""
    stream = headrace.load("nano", dtype="bfloat16", weights="int8").open("recent:2")
    stream.push(torch.zeros(64, 64, 3, dtype=torch.uint8))
    assert stream.ask("how many things are there", max_tokens=3).frames_seen == 1
