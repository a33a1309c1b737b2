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

RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
LANCZOS = "_upsample_lanczos2d_aa"  # torch's operation, since 2.12


@dataclass(frozen=True)
class Pictures:
    """Settings of a checkpoint's picture processor.

    Attributes:
        mean: Per channel, on the 0..1 scale.
        std: Per channel, on the 0..1 scale.
        rescale: Factor from uint8 to the 0..1 scale.
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
        scale = 1.0 / self.rescale
        mean, std = (torch.tensor(x, dtype=torch.float32).view(-1, 1, 1) * scale for x in (self.mean, self.std))
        return (pixels.float() - mean.to(pixels.device)) / std.to(pixels.device)


def read_pictures(read: Callable[[str], str | None], defaults: dict[str, Any]) -> Pictures:
    """Read a checkpoint's video processor settings; the first file that has them wins.

    Args:
        read: Returns the text of a file of the checkpoint, or None where there is none.
        defaults: The family's class defaults, for missing fields.

    Raises:
        ValueError: A file is no JSON, or asks for an interpolation that is not supported.
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
    resample = int(settings["resample"])
    if resample not in RESAMPLE:
        raise ValueError(f"resample: {resample} is not supported; known: {RESAMPLE}")
    if RESAMPLE[resample] == "lanczos" and not hasattr(torch.ops.aten, LANCZOS):
        raise ValueError(
            f"resample: {resample} is Lanczos, which torch {torch.__version__} cannot do; torch 2.12 or newer can"
        )
    return Pictures(
        mean=tuple(settings["image_mean"]),
        std=tuple(settings["image_std"]),
        rescale=float(settings["rescale_factor"]),
        mode=RESAMPLE[resample],
        settings=settings,
    )
