"""One picture of a whole stream: how much was kept and computed over time, and evenly chosen frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

from headrace.cli.drawing import FAINT, GUTTER, INK, PAD, PAPER, Box, draw_bars, draw_keys, font, wrap, write

TILES = 48  # most frames on a sheet
TILE = (150, 240)  # largest (height, width) of one picture on it
KEPT_BAR, WORK_BAR = (86, 180, 233), (213, 94, 0)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A frame that was drawn.

    Attributes:
        path: Its picture.
        boxes: (left, top, right, bottom) of the marked panels in it.
        index: The frame's number.
        time_s: Its time.
        kept: Tokens kept.
        tokens: Tokens before.
        work: Share of the tower that was computed, None where the encoder always computes all.
    """

    path: Path
    boxes: tuple[Box, ...]
    index: int
    time_s: float
    kept: int
    tokens: int
    work: float | None


def spaced(num: int, most: int) -> list[int]:
    """Choose at most ``most`` of ``num`` indices, one from each of equal stretches, always the same.

    The place within the stretch is drawn by lot: a fixed step would meet an encoder that refreshes every second frame
    always at the same moment.
    """
    if num <= most:
        return list(range(num))
    lot = Random(0)
    return [lot.randrange(i * num // most, (i + 1) * num // most) for i in range(most)]


def draw_sheet(
    drawn: Sequence[Drawn], title: str, about: str, *, fates: Sequence[int], most: int = TILES
) -> Image.Image:
    """Draw the contact sheet; the pictures are read back from their files.

    Args:
        drawn: Frames that were drawn, at least one, in their order.
        title: First line.
        about: What ran.
        fates: Which marks to explain.
        most: Most frames to show.
    """
    work = any(item.work is not None for item in drawn)
    chosen = [drawn[i] for i in spaced(len(drawn), most)]
    tiles = [_tile(item) for item in chosen]
    wide, tall = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    columns = min(len(tiles), max(1, round((len(tiles) * 1.4 * tall / wide) ** 0.5)))
    rows = -(-len(tiles) // columns)
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    keys = round(draw_keys(probe, (0, 0), fates=fates, work=work)) + 1
    inner = max(columns * (wide + GUTTER) - GUTTER, keys)
    head = list(wrap(about, inner, 13))
    bars = 2 if work else 1
    top = PAD + 26 + 17 * len(head) + 8 + 44 * bars + 28
    sheet = Image.new("RGB", (inner + 2 * PAD, top + rows * (tall + GUTTER) - GUTTER + PAD), PAPER)
    draw = ImageDraw.Draw(sheet)
    write(draw, (PAD, PAD), title, 18, INK)
    for i, line in enumerate(head):
        write(draw, (PAD, PAD + 26 + 17 * i), line, 13, FAINT)
    y = PAD + 26 + 17 * len(head) + 8
    _draw_course(draw, (PAD, y, PAD + inner), drawn)
    draw_keys(draw, (PAD, y + 44 * bars + 2), fates=fates, work=work)
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (PAD + i % columns * (wide + GUTTER), top + i // columns * (tall + GUTTER)))
    return sheet


def _draw_course(draw: ImageDraw.ImageDraw, at: tuple[int, int, int], drawn: Sequence[Drawn]) -> None:
    """Draw shares over time: at (left, top, right)."""
    left, top, right = at
    kept = [item.kept / max(item.tokens, 1) for item in drawn]
    rows = [("tokens kept", kept, KEPT_BAR)]
    if any(item.work is not None for item in drawn):
        rows.append(("tower computed", [1.0 if item.work is None else item.work for item in drawn], WORK_BAR))
    label = 130
    for i, (name, shares, colour) in enumerate(rows):
        y = top + 44 * i
        write(draw, (left, y + 2), name, 13)
        write(draw, (left, y + 18), f"mean {sum(shares) / len(shares):.0%}", 13, FAINT)
        draw_bars(draw, (left + label, y, right, y + 36), shares, colour)


def _tile(item: Drawn) -> Image.Image:
    """Cut the marked panels out of a frame's picture, and write its numbers below."""
    with Image.open(item.path) as page:
        panels = [page.convert("RGB").crop(box) for box in item.boxes]
    high, wide = TILE
    for panel in panels:
        panel.thumbnail((wide, high), Image.Resampling.LANCZOS)
    work = "" if item.work is None else f"   tower {item.work:.0%}"
    caption = f"{item.time_s:.1f} s   {item.kept}/{item.tokens} tokens{work}"
    inner = sum(panel.width for panel in panels) + 4 * (len(panels) - 1)
    tile = Image.new("RGB", (max(inner, round(font(13).getlength(caption)) + 1), panels[0].height + 19), PAPER)
    x = 0
    for panel in panels:
        tile.paste(panel, (x, 0))
        x += panel.width + 4
    write(ImageDraw.Draw(tile), (0, panels[0].height + 3), caption, 13)
    return tile
