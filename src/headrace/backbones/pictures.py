"""Frames to pixels: resize and normalise as the checkpoint's processor files say, in torch alone.

The uint8 resize is the one transformers' video processors use; it rounds between its two passes, so resizing floats
would give other pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headrace.types import Frame

CHANNELS = 3
RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
LANCZOS = "_upsample_lanczos2d_aa"  # torch's operation, since 2.12


@dataclass(frozen=True)
class Pictures:
    """Settings of a checkpoint's picture processor.

    Attributes:
        mean: Per channel, on the scale that ``rescale`` leads to; empty where the file says not to normalise.
        std: Per channel, on the same scale; empty with ``mean``.
        rescale: Factor from uint8 to the 0..1 scale; 1 where the file says not to rescale.
        mode: Interpolation of ``torch.nn.functional.interpolate``.
        settings: Everything the file says, for the fields a family adds.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float
    mode: str
    settings: dict[str, Any]

    def resize(self, frames: Sequence[Frame], height: int, width: int) -> Tensor:
        """Resize frames, aspect not kept, to (F, 3, height, width) uint8 on the CPU."""
        out = []
        for frame in frames:
            image = frame.image.permute(2, 0, 1)[None].cpu()
            if image.shape[-2:] != (height, width):
                image = torch.nn.functional.interpolate(
                    image, (height, width), mode=self.mode, antialias=True, align_corners=False
                )
            out.append(image)
        return torch.cat(out)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn (F, 3, height, width) uint8 into normalised fp32, where the pixels are."""
        if not self.mean:
            return pixels.float() * self.rescale
        scale = 1.0 / self.rescale
        mean, std = (torch.tensor(x, dtype=torch.float32).view(-1, 1, 1) * scale for x in (self.mean, self.std))
        return (pixels.float() - mean.to(pixels.device)) / std.to(pixels.device)


def read_pictures(read: Callable[[str], str | None], defaults: dict[str, Any]) -> Pictures:
    """Read a checkpoint's video processor settings; the first file that has them wins.

    Args:
        read: Returns the text of a file of the checkpoint, or None where there is none.
        defaults: The family's class defaults, for missing fields.

    Raises:
        ValueError: A file is no JSON, or asks for something that is not supported.
    """
    settings: dict[str, Any] = {}
    for name in ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json"):
        text = read(name)
        if text is None:
            continue
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name}: is not JSON ({error})") from None
        if name == "processor_config.json":
            content = content.get("video_processor") or {}
        if content:
            settings = content
            break
    settings = {**defaults, **{key: value for key, value in settings.items() if value is not None}}
    resample = settings["resample"]
    if not isinstance(resample, int) or resample not in RESAMPLE:
        raise ValueError(f"resample: {resample!r} is not supported; known: {RESAMPLE}")
    if not settings.get("do_resize", True):
        raise ValueError("do_resize: false is not supported; frames of a stream are brought to the tower's size")
    normalised = settings.get("do_normalize", True)
    if RESAMPLE[resample] == "lanczos" and not hasattr(torch.ops.aten, LANCZOS):
        raise ValueError(
            f"resample: {resample} is Lanczos, which torch {torch.__version__} cannot do; torch 2.12 or newer can"
        )
    return Pictures(
        mean=_channels(settings, "image_mean") if normalised else (),
        std=_channels(settings, "image_std") if normalised else (),
        rescale=float(settings["rescale_factor"]) if settings.get("do_rescale", True) else 1.0,
        mode=RESAMPLE[resample],
        settings=settings,
    )


def _channels(settings: dict[str, Any], field: str) -> tuple[float, ...]:
    """Read a number per channel; a single one counts for all.

    Raises:
        ValueError: It is neither.
    """
    value = settings[field]
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) not in (1, CHANNELS) or not all(isinstance(number, int | float) for number in numbers):
        raise ValueError(f"{field}: {value!r} in the processor file is neither a number nor one for each channel")
    return tuple(map(float, numbers * (CHANNELS // len(numbers))))
