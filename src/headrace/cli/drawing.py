"""Pictures of what a step did to a frame: which tokens went on, which patches were computed. Arrays in, pictures out.

What was kept or computed looks as it is; what was not is darker: grey where a token was dropped, purple where it was
merged, blue where earlier work was used again. So the marks differ in lightness first, and never in red and green.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Box = tuple[int, int, int, int]  # left, top, right, bottom
Picture = NDArray[np.uint8]  # (height, width, 3) RGB

KEPT, DROPPED, MERGED = 0, 1, 2
PAPER, INK, FAINT = (255, 255, 255), (32, 32, 32), (110, 110, 110)
EDGE = (240, 228, 66)  # around kept cells
GREY = np.array([0.299, 0.587, 0.114], np.float32)
GONE = 0.36  # brightness of dropped cells
PURPLE, BLUE = np.array([0.62, 0.34, 0.5], np.float32), np.array([0.16, 0.32, 0.66], np.float32)
AREA, LONGEST, NARROW = 384 * 288, 640, 4.0  # of one panel: pixels, longest side, and longest side over shortest
PAD, GUTTER = 12, 16


@dataclass(frozen=True)
class Panel:
    """A picture and the line above it."""

    title: str
    image: Image.Image


def shape_of(height: int, width: int) -> tuple[int, int]:
    """Choose (height, width) of a panel for a frame of this shape: same aspect, about as many pixels for all."""
    aspect = min(max(width / height, 1 / NARROW), NARROW)
    wide = min((AREA * aspect) ** 0.5, LONGEST)
    tall = wide / aspect
    if tall > LONGEST:
        wide, tall = wide * LONGEST / tall, LONGEST
    return round(tall), round(wide)


def seen(image: Picture, view: tuple[int, int], size: tuple[int, int]) -> Picture:
    """Show a frame as detailed as the model sees it, in its own aspect.

    Args:
        image: The frame.
        view: (height, width) the model resizes it to.
        size: (height, width) of the panel.
    """
    small = Image.fromarray(image).resize((view[1], view[0]), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def spread(cells: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Give every pixel its cell's value: (rows, columns) to (height, width)."""
    row, col = (np.arange(n) * cells.shape[axis] // n for axis, n in enumerate(size))
    pixels: NDArray[Any] = cells[row[:, None], col[None, :]]
    return pixels


def draw_fate(base: Picture, fate: NDArray[np.int8]) -> Picture:
    """Mark tokens: kept cells stay as they are with a bright edge, dropped ones go dark and grey, merged ones purple.

    Args:
        base: The frame.
        fate: (rows, columns) of ``KEPT``, ``DROPPED``, ``MERGED``.
    """
    pixel = spread(fate, base.shape[:2])
    light = (base.astype(np.float32) @ GREY)[..., None]
    out = base.astype(np.float32)
    out = np.where((pixel == DROPPED)[..., None], GONE * light, out)
    out = np.where((pixel == MERGED)[..., None], light * PURPLE, out)
    kept = pixel == KEPT
    around = np.pad(kept, 1, mode="edge")  # along the frame's own edge a kept cell needs no line
    inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    out[kept & ~inner] = EDGE
    return out.clip(0, 255).astype(np.uint8)


def draw_work(base: Picture, share: NDArray[np.float32]) -> Picture:
    """Mark patches whose earlier work was used again: the fewer layers computed a patch, the darker and bluer it is.

    Args:
        base: The frame.
        share: (rows, columns), share of the tower's layers that computed the patch.
    """
    light = (base.astype(np.float32) @ GREY)[..., None]
    part = spread(share, base.shape[:2])[..., None].clip(0, 1)
    out: NDArray[np.float32] = part * base + (1 - part) * (light * BLUE)
    return out.clip(0, 255).astype(np.uint8)


def font(size: int) -> Any:
    """The font that comes with Pillow."""
    return ImageFont.load_default(size)


def write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int = 14, colour: Any = INK) -> float:
    """Write a line with its top left at a point; returns the x behind it."""
    face = font(size)
    draw.text(at, text, fill=colour, font=face)
    return at[0] + float(draw.textlength(text, font=face))


def wrap(text: str, width: int, size: int) -> Iterator[str]:
    """Cut a text at spaces into lines no wider than ``width`` pixels; a longer word has a line of its own."""
    face, line = font(size), ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and face.getlength(longer) > width:
            yield line
            longer = word
        line = longer
    if line:
        yield line


def draw_keys(draw: ImageDraw.ImageDraw, at: tuple[int, int], *, fates: Sequence[int], work: bool) -> float:
    """Draw what the marks mean in one line; returns the x behind it."""
    x, y, sample = float(at[0]), at[1], np.full((14, 14, 3), 190, np.uint8)
    for fate in fates:
        whole = draw_fate(sample, np.full((1, 1), fate, np.int8))
        draw.rectangle((x, y + 1, x + 14, y + 15), _colour(whole), EDGE if fate == KEPT else None, 2)
        x = write(draw, (x + 20, y), ("token kept", "dropped", "merged into a kept one")[fate]) + 20
    if work:
        x = write(draw, (x, y), "patch reused in all tower layers") + 6
        for i in range(60):
            shade = draw_work(sample[:1, :1], np.full((1, 1), i / 59, np.float32))
            draw.line((x + i, y + 1, x + i, y + 15), _colour(shade))
        x = write(draw, (x + 66, y), "computed in all")
    return x


def _colour(picture: Picture) -> tuple[int, ...]:
    return tuple(int(channel) for channel in picture[0, 0])


def draw_page(
    panels: Sequence[Panel], caption: str, *, fates: Sequence[int], work: bool
) -> tuple[Image.Image, tuple[Box, ...]]:
    """Put panels side by side, their titles above, one strip with caption and keys below.

    Returns:
        The page, and where each panel's picture stands in it.
    """
    heights = [panel.image.height for panel in panels]
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    widths = [max(panel.image.width, round(font(14).getlength(panel.title)) + 1) for panel in panels]
    inner = sum(widths) + GUTTER * (len(panels) - 1)
    inner = max(inner, round(draw_keys(probe, (0, 0), fates=fates, work=work)) + 1, round(font(15).getlength(caption)))
    page = Image.new("RGB", (inner + 2 * PAD, max(heights) + 2 * PAD + 72), PAPER)
    draw, x, boxes = ImageDraw.Draw(page), PAD, []
    for panel, width in zip(panels, widths, strict=True):
        write(draw, (x, PAD), panel.title)
        page.paste(panel.image, (x, PAD + 22))
        boxes.append((x, PAD + 22, x + panel.image.width, PAD + 22 + panel.image.height))
        x += width + GUTTER
    below = PAD + 22 + max(heights) + 8
    write(draw, (PAD, below), caption, 15)
    draw_keys(draw, (PAD, below + 22), fates=fates, work=work)
    return page, tuple(boxes)


def draw_bars(draw: ImageDraw.ImageDraw, box: Box, shares: Sequence[float], colour: Any) -> None:
    """Draw shares from 0 to 1 as bars from left to right; where they are narrower than a pixel, the highest shows."""
    left, top, right, bottom = box
    draw.rectangle(box, fill=(240, 240, 240))
    num, width = len(shares), right - left
    for x in range(width):
        first = x * num // width
        share = max(shares[first : max(first + 1, (x + 1) * num // width)])
        if share > 0:
            draw.line((left + x, bottom - max(1, round(share * (bottom - top))), left + x, bottom), fill=colour)
