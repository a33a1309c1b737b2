"""Frames to pixels: the recipe of transformers' video processor, and which file says how."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch.nn.functional import interpolate

from headrace.backbones.llava_onevision import DEFAULTS
from headrace.backbones.pictures import read_pictures
from headrace.types import Frame
from parity.models import frames

FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")


def pictures(**files):
    """Settings of a folder that holds these files (dots spelled as ``__``)."""
    texts = {name: json.dumps(files[name.split(".")[0]]) for name in FILES if name.split(".")[0] in files}
    return read_pictures(texts.get, DEFAULTS)


def test_a_file_that_says_nothing_leaves_the_class_defaults():
    for made in (pictures(), pictures(preprocessor_config={}), pictures(processor_config={"image_processor": {}})):
        assert made.mean == (0.48145466, 0.4578275, 0.40821073)
        assert made.std == (0.26862954, 0.26130258, 0.27577711)
        assert made.rescale == pytest.approx(1 / 255)
        assert made.mode == "bicubic"
        assert made.settings["size"] == {"height": 384, "width": 384}


def test_the_video_part_of_the_processor_file_comes_first():
    means = {name: [round(0.1 * i, 1)] * 3 for i, name in enumerate(("whole", "video", "image"), start=1)}
    whole = {"processor_config": {"video_processor": {"image_mean": means["whole"]}, "image_mean": [0.9] * 3}}
    video = {"video_preprocessor_config": {"image_mean": means["video"]}}
    image = {"preprocessor_config": {"image_mean": means["image"], "image_std": [0.7] * 3}}
    assert pictures(**whole, **video, **image).mean == (0.1,) * 3
    assert pictures(processor_config={"num_image_tokens": 4}, **video, **image).mean == (0.2,) * 3
    assert pictures(**image).mean == (0.3,) * 3
    assert pictures(**video, **image).std == tuple(DEFAULTS["image_std"]), "a field comes from one file, not from two"


def test_a_field_that_is_null_is_a_missing_field():
    assert pictures(video_preprocessor_config={"image_mean": None, "resample": 2}).mean == tuple(DEFAULTS["image_mean"])


@pytest.mark.parametrize(("number", "mode"), [(1, "lanczos"), (2, "bilinear"), (3, "bicubic")])
def test_resample_is_pillows_number(number, mode):
    assert pictures(preprocessor_config={"resample": number}).mode == mode


@pytest.mark.parametrize("resample", [5, "bicubic", [3]])
def test_a_resample_that_is_not_supported_is_named(resample):
    with pytest.raises(ValueError, match=rf"^resample: {re.escape(repr(resample))} is not supported") as raised:
        pictures(preprocessor_config={"resample": resample})
    assert "\n" not in str(raised.value)


def test_a_torch_that_has_no_lanczos_is_told_apart(monkeypatch):
    monkeypatch.setattr("headrace.backbones.pictures.LANCZOS", "_upsample_nowhere")
    with pytest.raises(
        ValueError, match=r"^resample: 1 is Lanczos, which torch .* cannot do; torch 2.12 or newer can$"
    ):
        pictures(preprocessor_config={"resample": 1})
    assert pictures(preprocessor_config={"resample": 3}).mode == "bicubic"


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_json_is_named(name):
    with pytest.raises(ValueError, match="is not JSON") as raised:
        read_pictures({name: '{"size": \n'}.get, DEFAULTS)
    assert str(raised.value).startswith(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [(480, 640), (64, 48), (28, 28), (27, 29), (1, 1), (3, 500), (1080, 1920)])
def test_resize_is_the_uint8_kernel_on_each_frame(size):
    made, seen = pictures(), frames(2, size=size)
    got = made.resize(seen, 28, 28)
    assert (got.dtype, got.shape) == (torch.uint8, (2, 3, 28, 28))
    for row, frame in zip(got, seen, strict=True):
        image = frame.image.permute(2, 0, 1).contiguous()[None]
        want = image if size == (28, 28) else interpolate(image, (28, 28), mode="bicubic", antialias=True)
        assert torch.equal(row, want[0])


def test_frames_of_different_sizes_share_a_step():
    mixed = [*frames(1, size=(40, 60)), *frames(1, first=1, size=(28, 28)), *frames(1, first=2, size=(99, 10))]
    got = pictures().resize(mixed, 28, 28)
    for row, frame in zip(got, mixed, strict=True):
        assert torch.equal(row, pictures().resize([frame], 28, 28)[0])


def test_resize_leaves_the_frame_alone():
    frame = frames(1, size=(28, 28))[0]
    kept = frame.image.clone()
    pictures().resize([frame], 28, 28).fill_(0)
    assert torch.equal(frame.image, kept)


@pytest.mark.parametrize("rescale", [1 / 255, 1 / 127.5, 1.0])
def test_normalise_scales_mean_and_std_instead_of_the_pixels(rescale):
    made = pictures(video_preprocessor_config={"rescale_factor": rescale})
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    got = made.normalise(levels)
    assert got.dtype == torch.float32
    for channel in range(3):
        mean, std = made.mean[channel], made.std[channel]
        want = (levels[0, channel].double() * rescale - mean) / std
        assert torch.allclose(got[0, channel].double(), want, atol=2e-6 * float(want.abs().max()))
        scale = 1.0 / rescale
        exact = (levels[0, channel].float() - torch.tensor(mean) * scale) / (torch.tensor(std) * scale)
        assert torch.equal(got[0, channel], exact)


def test_flags_of_a_file_are_followed():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    plainly = pictures(preprocessor_config={"do_normalize": False}).normalise(levels)
    assert torch.allclose(plainly, levels.float() / 255)
    means = {"image_mean": [100.0, 120.0, 90.0], "image_std": [50.0, 60.0, 70.0]}
    unscaled = pictures(preprocessor_config={"do_rescale": False, **means}).normalise(levels)
    want = (levels.float() - torch.tensor(means["image_mean"]).view(3, 1, 1)) / torch.tensor([50.0, 60, 70]).view(
        3, 1, 1
    )
    assert torch.equal(unscaled, want)
    neither = pictures(preprocessor_config={"do_rescale": False, "do_normalize": False})
    assert torch.equal(neither.normalise(levels), levels.float())
    both = pictures(preprocessor_config={"do_rescale": True, "do_normalize": True, "do_resize": True})
    assert torch.equal(both.normalise(levels), pictures().normalise(levels))


def test_resizing_cannot_be_left_out():
    with pytest.raises(ValueError, match=r"^do_resize: false is not supported"):
        pictures(preprocessor_config={"do_resize": False})


@pytest.mark.parametrize("value", [0.5, [0.5], 1])
def test_one_number_counts_for_all_channels(value):
    made = pictures(preprocessor_config={"image_mean": value, "image_std": value})
    assert made.mean == made.std == (0.5 if value != 1 else 1.0,) * 3


@pytest.mark.parametrize("value", ["0.5", [0.5, 0.5], [], [0.5, "x", 0.5], {"r": 1}])
@pytest.mark.parametrize("field", ["image_mean", "image_std"])
def test_numbers_that_are_none_for_channels_are_named(field, value):
    with pytest.raises(ValueError, match=rf"^{field}: .* neither a number nor one for each channel$"):
        pictures(preprocessor_config={field: value})


def test_black_and_white_with_siglips_constants():
    made = pictures(preprocessor_config={"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert made.normalise(ends)[0, :, 0].tolist() == [[-1.0, 1.0]] * 3


@pytest.mark.parametrize("size", [(480, 640), (64, 48), (384, 384), (100, 1000)])
def test_pixels_are_close_to_transformers_own_processor(size):
    """Its Pillow version, which needs nothing that is not installed; Pillow rounds a little differently."""
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    frame = smooth(size)
    theirs = LlavaOnevisionImageProcessorPil(size={"height": 384, "width": 384}, image_grid_pinpoints=[[384, 384]])
    tiles = theirs(frame.image.numpy(), return_tensors="pt")["pixel_values"]
    want = torch.as_tensor(tiles[0][0] if isinstance(tiles, list) else tiles[0, 0])
    settings = {"image_mean": list(theirs.image_mean), "image_std": list(theirs.image_std)}
    made = pictures(video_preprocessor_config=settings)
    got = made.normalise(made.resize([frame], 384, 384))[0]
    off = (got - want).abs() * torch.tensor(made.std).view(3, 1, 1) * 255
    assert float(off.max()) <= 3
    assert float(off.mean()) < 0.2


def smooth(size: tuple[int, int]) -> Frame:
    """A picture with slow and quick changes."""
    rows, cols = torch.meshgrid(*(torch.linspace(0, 1, n) for n in size), indexing="ij")
    waves = [torch.sin(9 * rows + 4 * cols), torch.cos(31 * cols), torch.sin(50 * rows * cols)]
    return Frame(0, 0.0, ((torch.stack(waves, -1) + 1) * 127.5).to(torch.uint8))
