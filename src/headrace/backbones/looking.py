"""Which size a stream's frames have before the tower.

transformers' processors let the size depend on how many frames a clip has, which no stream knows. Here it is fixed by
the shape of the first frame and a budget of pixels per frame, and every later frame is brought to it.
"""

from __future__ import annotations

import math
from typing import Any

from headrace.types import View

PROMPTS = ("trained", "library")
MOST_ASPECT = 200  # longer pictures are refused, as the processors do


def check_view(view: View, *, one_size: tuple[int, int] | None = None) -> None:
    """Check what may be asked of any family.

    Args:
        view: The view.
        one_size: (height, width) of the tower, where it has one size only.

    Raises:
        ValueError: The view has something the model cannot do.
    """
    if view.prompt not in PROMPTS:
        raise ValueError(f"prompt: {view.prompt!r} is unknown; known: {', '.join(PROMPTS)}")
    if one_size is None:
        return
    if view.max_pixels is not None:
        raise ValueError(
            f"max_pixels: this model sees every frame at {one_size[1]} x {one_size[0]} pixels; leave it out"
        )


def fit(height: int, width: int, *, unit: int, least: int, most: int) -> tuple[int, int]:
    """Choose the size a frame is resized to: whole units on both sides, the shape kept as well as that allows.

    Source: the rule of Qwen2.5-VL's and Qwen3-VL's processors, for one frame. Ours differs: a picture that is enlarged
    stays within ``most``; theirs rounds up and may pass it.

    Args:
        height: Of the frame, in pixels.
        width: Of the frame, in pixels.
        unit: Pixels along one side of a visual token.
        least: Pixels of the result at least.
        most: Pixels of the result at most; a very long picture may take more, for it has one unit at least.

    Returns:
        Height and width.

    Raises:
        ValueError: One side is more than 200 times the other.
    """
    if max(height, width) > MOST_ASPECT * min(height, width):
        raise ValueError(
            f"frame: is {width} x {height} pixels; this model takes pictures up to {MOST_ASPECT} times as long as high"
        )
    rows, cols = round(height / unit) * unit, round(width / unit) * unit
    if rows * cols < least:
        grow = math.sqrt(least / (height * width))
        rows, cols = math.ceil(height * grow / unit) * unit, math.ceil(width * grow / unit) * unit
    if rows * cols > most:
        shrink = math.sqrt(height * width / most)
        rows = max(unit, math.floor(height / shrink / unit) * unit)
        cols = max(unit, math.floor(width / shrink / unit) * unit)
    return rows, cols


def most_tokens(*, unit: int, most: int) -> int:
    """The most visual tokens that any frame ``fit`` does not refuse may have."""
    return math.floor(max(most / unit**2, math.sqrt(MOST_ASPECT * most) / unit))


def read_edges(settings: dict[str, Any]) -> tuple[int, int]:
    """Read the least and the most pixels a processor file allows; old files call them otherwise.

    Args:
        settings: Of the file, with the family's ``size`` where it has none.

    Raises:
        ValueError: They are no numbers of pixels.
    """
    size = settings["size"]
    least = settings.get("min_pixels") or size.get("shortest_edge")
    most = settings.get("max_pixels") or size.get("longest_edge")
    if not (isinstance(least, int) and isinstance(most, int) and 0 < least <= most):
        raise ValueError(f"size: from {least} to {most} pixels in the processor file is no range")
    return least, most
