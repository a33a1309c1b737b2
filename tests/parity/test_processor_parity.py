"""Pixels equal those of transformers' own video processors.

They ask for torchvision, of which they use four small functions; a stand-in for these is written beside the test and
seen by another process only. Its resize is torch's uint8 kernel, which is what torchvision calls on a CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import headrace
from headrace.backbones import FAMILIES, plain
from parity.families import Kin, write
from parity.models import QUESTION
from unit.test_pictures import smooth

STAND_IN = """
import enum
import torch

class InterpolationMode(enum.Enum):
    NEAREST = NEAREST_EXACT = "nearest-exact"
    BOX, HAMMING = "box", "hamming"
    BILINEAR, BICUBIC, LANCZOS = "bilinear", "bicubic", "lanczos"

def pil_to_tensor(image):
    raise NotImplementedError

def grayscale_to_rgb(video):
    return video

def resize(video, size, interpolation, antialias):
    if tuple(video.shape[-2:]) == tuple(size):
        return video
    assert video.dtype == torch.uint8
    frames, mode = video.flatten(0, -4), interpolation.value
    out = torch.nn.functional.interpolate(frames, tuple(size), mode=mode, antialias=antialias)
    return out.unflatten(0, video.shape[:-3])

def normalize(video, mean, std, inplace=False):
    mean, std = (torch.as_tensor(x, dtype=video.dtype).view(-1, 1, 1) for x in (mean, std))
    return (video - mean) / std
"""

ASK = """
import sys
from safetensors.torch import load_file, save_file
from transformers import AutoVideoProcessor

folder, given, found = sys.argv[1:]
processor = AutoVideoProcessor.from_pretrained(folder)
clips = load_file(given)
out = {name: processor(clip, return_tensors="pt", do_sample_frames=False) for name, clip in clips.items()}
save_file({f"{name}.{key}": x.contiguous() for name, made in out.items() for key, x in made.items()}, found)
"""


def stand_in(folder: Path) -> None:
    """Write a package that looks like torchvision to transformers."""
    for path in ("", "transforms", "transforms/v2", "io"):
        (folder / "torchvision" / path).mkdir(parents=True, exist_ok=True)
        (folder / "torchvision" / path / "__init__.py").write_text("")
    for path in ("transforms/__init__", "transforms/functional", "transforms/v2/functional"):
        (folder / "torchvision" / f"{path}.py").write_text("from torchvision.few import *\n")
    (folder / "torchvision" / "few.py").write_text(STAND_IN)
    (folder / "torchvision-0.27.0.dist-info").mkdir()
    (folder / "torchvision-0.27.0.dist-info" / "METADATA").write_text("Name: torchvision\nVersion: 0.27.0\n")


ODD = [
    ("llava_onevision", {"do_normalize": False}),
    ("qwen3_vl", {"do_rescale": False}),
    ("llava_onevision", {"image_mean": 0.4, "image_std": 0.3, "resample": 2}),
    ("qwen2_5_vl", {"size": {"shortest_edge": 196, "longest_edge": 20 * 196}}),
]


@pytest.mark.long
@pytest.mark.parametrize(("family", "fields"), [*((family, {}) for family in FAMILIES), *ODD])
def test_pixels_are_those_of_transformers_own_video_processor(family, fields, tmp_path):
    write(family, tmp_path / "model")
    if fields:
        path = tmp_path / "model" / "video_preprocessor_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    model, tokenizer = plain.load(tmp_path / "model")
    engine = headrace.load(str(tmp_path / "model"), dtype="float32", device="cpu")
    any_size = engine.backbone.spec.patch_grid == (0, 0)
    kin = Kin(family, model, tokenizer, engine, max_pixels=300_000 if any_size else None)
    clips = {f"{h}x{w}": [smooth((h, w))] * 2 for h, w in ((64, 48), (180, 320), (33, 200), (24, 24), (301, 97))}
    stand_in(tmp_path / "few")
    save_file(
        {name: torch.stack([frame.image.permute(2, 0, 1) for frame in clip]) for name, clip in clips.items()},
        tmp_path / "given.safetensors",
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "few"), *sys.path])}
    arguments = (str(tmp_path / name) for name in ("model", "given.safetensors", "found.safetensors"))
    done = subprocess.run(
        [sys.executable, "-c", ASK, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(tmp_path / "found.safetensors")
    for name, clip in clips.items():
        want = found[f"{name}.{plain.of(family).PIXELS}"]
        got = kin.inputs((QUESTION, clip))["pixels"]
        assert got.shape == want.shape
        assert got.equal(want), name
