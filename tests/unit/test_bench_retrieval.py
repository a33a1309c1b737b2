"""The retrieval bench at a tiny size, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from headrace.backbones import FAMILIES, adopt, plain
from headrace.bench.retrieval import QUESTION, Setting, again, forget, read_bytes, retrieval
from headrace.types import Cursor, Frame, View
from unit.tiny import run

TINY = ("bench", "retrieval", "--model-shape", "tiny", "--dtype", "float32", "--device", "cpu")


def test_a_tiny_run_tells_both_times_and_leaves_nothing(tmp_path: Path):
    setting = Setting(shape="tiny", few=3, many=9, today=2, encoded=1, repeats=2, ram_blocks=4, dtype="float32")
    found = retrieval(setting, tmp_path)
    assert {name: len(ms) for name, ms in found["first_token_ms"].items()} == {"3": 2, "9": 2}
    assert found["ratio"] == found["many_ms"] / found["few_ms"] > 0
    assert found["share_of_today"] == found["many_ms"] / found["again"]["first_token_ms"]
    assert found["disk_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_disk_bytes_are_those_of_the_long_stream(tmp_path: Path):
    """Whether or not blocks of the short one lie on disk, too."""
    told = []
    for few in (3, 8):
        setting = Setting(shape="tiny", few=few, many=9, today=0, repeats=1, ram_blocks=4, dtype="float32")
        told.append(retrieval(setting, tmp_path)["disk_bytes"])
    assert told[0] == told[1] > 0


@pytest.mark.parametrize(("family", "unit"), [("qwen2_5_vl", 2), ("llava_onevision", 1)])
def test_frames_are_encoded_again_as_many_at_once_as_the_tower_takes(family: str, unit: int, monkeypatch):
    """Four of eight frames are timed; the prefill has the rows of eight frames and a question, no more."""
    model, tokenizer = plain.tiny(family, QUESTION.text.split())
    backbone = adopt(model, tokenizer, name="tiny")
    pictures = [Frame(i, float(i), torch.zeros(384, 384, 3, dtype=torch.uint8)) for i in range(8)]
    backbone = backbone.at(backbone.choose(View(), pictures[0]))
    assert backbone.spec.frames_per_step == unit
    around = len(backbone.open().embeds) + len(backbone.turn(QUESTION.text, Cursor(clip_open=True)).embeds)
    passes, prefilled, prefill = [], [], plain.prefill
    pixels = type(backbone).pixels
    monkeypatch.setattr(type(backbone), "pixels", lambda self, f: passes.append(len(f)) or pixels(self, f))
    monkeypatch.setattr(plain, "prefill", lambda model, rows: prefilled.append(len(rows)) or prefill(model, rows))
    clock = iter(range(100))
    monkeypatch.setattr("headrace.bench.retrieval.time.perf_counter", lambda: next(clock))
    with torch.no_grad():
        found = again(model, backbone, Setting(few=1, many=2, today=8, encoded=4))
        rows = backbone.vision(pixels(backbone, pictures), pictures).features.shape[0]
    assert passes == [unit] * (4 // unit)
    assert prefilled == [around + rows]
    assert found["encode_ms"] == 1000 * 8 / unit, "each step takes a second"


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_encodes_frames_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str):
    """Also where the first frame fixes the size of all."""
    model, tokenizer = plain.tiny(family, QUESTION.text.split())
    for name, found in (("shape_config", model.config), ("build_large", model), ("word_tokenizer", tokenizer)):
        monkeypatch.setattr(plain, name, lambda *args, found=found, **settings: found)
    setting = Setting(shape="any", few=2, many=6, today=4, encoded=1, repeats=1, ram_blocks=4, dtype="float32")
    assert retrieval(setting, tmp_path)["again"]["first_token_ms"] > 0


def test_the_command_and_another_memory():
    options = ("--few", "2", "--many", "5", "--today", "0", "--repeats", "1", "--ram-blocks", "3")
    status, stdout, _ = run(*TINY, *options, "--pipeline", "infllm", "--json")
    (found,) = (json.loads(line) for line in stdout.splitlines())
    assert (status, found["event"], found["pipeline"]) == (0, "result", "infllm")
    assert "again" not in found
    status, stdout, _ = run(*TINY, *options)
    assert status == 0
    assert "first token after 5 frames" in stdout


def file_system(path: Path) -> str:
    """What kind of file system a path lies on."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return max((x for x in mounts if str(path).startswith(x[1])), key=lambda x: len(x[1]))[2]


def test_cold_files_are_read_from_the_disk(tmp_path: Path):
    """Pages that were forgotten are fetched again, where there is a disk beneath; a file system in memory has none."""
    (tmp_path / "1.kv").write_bytes(bytes(range(256)) * 4096)
    forget(tmp_path)
    before = read_bytes()
    assert (tmp_path / "1.kv").read_bytes()[:3] == bytes([0, 1, 2])
    if file_system(tmp_path) in ("ext4", "xfs", "btrfs"):
        assert read_bytes() - before >= 1 << 20
    found = retrieval(Setting(shape="tiny", few=2, many=6, today=0, ram_blocks=2, dtype="float32", cold=True), tmp_path)
    assert found["read_bytes"] >= 0


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"few": 5, "many": 5}, "frames: 5,5"),
        ({"repeats": 0}, "repeats: must be at least 1"),
        ({"today": 4, "encoded": 5}, "encoded: 5 of 4 frames"),
    ],
)
def test_bad_numbers_are_refused(values: dict[str, int], what: str):
    with pytest.raises(ValueError, match=what):
        Setting(**values)
