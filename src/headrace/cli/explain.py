"""``headrace ask --explain FOLDER``: pictures of what was kept, dropped and used again, frame by frame."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from headrace.cli import drawing
from headrace.cli.drawing import DROPPED, KEPT, MERGED, Box, Panel
from headrace.cli.sheet import Drawn, draw_sheet
from headrace.engine import Stream
from headrace.engine.state import fork
from headrace.engine.step import Stopwatch, see
from headrace.ops.grid import raster_order
from headrace.protocols import SelectiveEncoder
from headrace.types import Frame, Merge, Sight, VisualTokens

SHEET, NUMBERS, FRAMES = "sheet.png", "frames.jsonl", "frames"


@dataclass(frozen=True)
class Account:
    """What became of one frame.

    Attributes:
        frame: The frame.
        fate: (rows, columns) int8 of ``KEPT``, ``DROPPED``, ``MERGED``.
        kept: Places of the kept tokens on that grid, ascending.
        tokens: Tokens before the compressor.
        weights: How many tokens each kept one stands for, None where all stand for one.
        layers: Share of the patches that each tower layer computed, None where the encoder always computes all.
        work: (rows, columns) share of the layers that computed each patch, None without ``layers`` or where the
            patches are no grid.
    """

    frame: Frame
    fate: NDArray[np.int8]
    kept: tuple[int, ...]
    tokens: int
    weights: tuple[float, ...] | None = None
    layers: tuple[float, ...] | None = None
    work: NDArray[np.float32] | None = None

    @property
    def share(self) -> float | None:
        """Share of the tower that was computed."""
        return None if self.layers is None else sum(self.layers) / len(self.layers)

    def numbers(self, picture: str, step: Sequence[Frame]) -> dict[str, Any]:
        """The account as JSON; ``step`` are the frames that were taken in with it."""
        return {
            "frame": self.frame.index,
            "time_s": self.frame.time_s,
            "picture": picture,
            "step": [frame.index for frame in step],
            "grid": list(self.fate.shape),
            "tokens_in": self.tokens,
            "tokens_kept": len(self.kept),
            "kept": list(self.kept),
            "weights": None if self.weights is None else [round(x, 4) for x in self.weights],
            "tower_computed": 1.0 if self.share is None else round(self.share, 4),
            "tower_computed_per_layer": None if self.layers is None else [round(x, 4) for x in self.layers],
        }


def accounts(sight: Sight, updated: Tensor | None, grid: tuple[int, int]) -> Iterator[Account]:
    """Tell what became of each frame of a step (of the first one where the tower takes several at once).

    Args:
        sight: The step.
        updated: (L, F, N) bool patches that each tower layer computed, in raster order, None for all.
        grid: (rows, columns) of the tower's patches.
    """
    by_index = {frame.index: frame for frame in sight.frames}
    for i, index in enumerate(sight.dense.frames):
        slots, weights = _places(sight.kept, index)
        fate = np.full(sight.kept.grid, MERGED if isinstance(sight.edit, Merge) else DROPPED, np.int8)
        fate.reshape(-1)[list(slots)] = KEPT
        layers, work = None, None
        if updated is not None:
            patches = updated[:, i].float()
            layers = tuple(patches.mean(1).tolist())
            work = _on_grid(patches.mean(0), grid)
        tokens = int((sight.dense.frame == i).sum())
        yield Account(by_index[index], fate, slots, tokens, weights, layers, work)


def _places(tokens: VisualTokens, index: int) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """Places on the grid and weights of a frame's tokens."""
    if index not in tokens.frames:
        return (), None
    own = (tokens.frame == tokens.frames.index(index)).nonzero().squeeze(1)
    slots = tokens.row[own] * tokens.grid[1] + tokens.col[own]
    weights = None if tokens.weight is None else tuple(tokens.weight.cpu()[own].tolist())
    return tuple(slots.tolist()), weights


def _on_grid(patches: Tensor, grid: tuple[int, int]) -> NDArray[np.float32] | None:
    """Lay (N,) patches out on their grid, None where they are none."""
    if len(patches) != grid[0] * grid[1]:
        return None
    laid: NDArray[np.float32] = patches.cpu().numpy().reshape(grid)
    return laid


@dataclass
class Explainer:
    """Draws what a stream does to its frames. Holds a few numbers per picture, never the pictures.

    Attributes:
        folder: Takes ``frames/``, ``frames.jsonl`` and ``sheet.png``; made if it is missing.
        every: Draw every so-manieth frame.
        most: Draw at most so many.
        note: Takes remarks.
        goes_on: Leave an earlier explanation in the folder where it is, and add to it; the sheet is new.
        error: Why nothing more could be drawn, None while all goes well.

    Raises:
        ValueError: The folder holds something else or cannot be written to, or a number is below 1.
    """

    folder: Path
    every: int = 1
    most: int = 600
    note: Callable[[str], None] = print
    goes_on: bool = False
    drawn: list[Drawn] = field(default_factory=list, init=False)
    left_out: int = field(default=0, init=False)
    error: ValueError | None = field(default=None, init=False)
    _seen: int = field(default=0, init=False)
    _title: tuple[str, str] = field(default=("", ""), init=False)
    _fates: set[int] = field(default_factory=lambda: {KEPT}, init=False)

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("most", self.most)):
            if value < 1:
                raise ValueError(f"--explain-{name}: must be at least 1, not {value}")
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            other = next((path.name for path in self.folder.iterdir() if not _ours(path)), None)
        if other is not None:
            raise ValueError(f"--explain: {self.folder} holds {other}; give a new or empty folder")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what goes wrong with the folder into one line."""
        try:
            yield
        except OSError as error:
            raise ValueError(f"--explain: {self.folder} cannot be written to ({error.strerror})") from None

    @contextmanager
    def follow(self, stream: Stream, title: str, *, told: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """Draw what the stream does while a block runs, in place of an earlier explanation or behind it.

        Frames that wait for their step at the end are drawn, too, as a question sees them.

        Args:
            stream: What to observe.
            title: First line of the sheet.
            told: Called at the end, also after a failure, with what was drawn and where it is.

        Raises:
            ValueError: The folder cannot be written to at the start. Later that ends the drawing only: see ``error``.
        """
        with self._writing():
            (self.folder / FRAMES).mkdir(exist_ok=True)
            for old in () if self.goes_on else (*(self.folder / FRAMES).glob("*.png"), self.folder / SHEET):
                old.unlink(missing_ok=True)
            self._begin({frame.index for frame in stream.state.pending} if self.goes_on else None)
        self._title = (title, str(stream.pipeline))
        view: list[tuple[int, int]] = []

        def draw_all(sight: Sight) -> None:
            encoder, updated = stream.pipeline.encoder, None
            if self.error is not None:
                return
            if isinstance(encoder, SelectiveEncoder):
                updated = raster_order(encoder.updated(sight.encoder, len(sight.dense.frames)), stream.spec.patch_order)
            if not view:
                height, width = stream.backbone.pixels(sight.frames[:1]).shape[-2:]
                view.append((height, width))
            for account in accounts(sight, updated, stream.spec.patch_grid):
                self._take(account, sight.frames, view[0])

        stream.observe(lambda sight, _: draw_all(sight))
        try:
            yield
            if stream.state.pending and self.error is None:
                self._draw_waiting(stream, draw_all)
        finally:
            stream.observe(None)
            told(self._finish())

    def _begin(self, waiting: set[int] | None) -> None:
        """Make the file of numbers: empty, or without the frames that were drawn while they waited for their step."""
        path, lines = self.folder / NUMBERS, list[str]()
        if waiting is not None and path.is_file():
            lines = path.read_text().splitlines(keepends=True)
            if waiting:
                lines = [line for line in lines if _index(line) not in {None, *waiting}]
        path.write_text("".join(lines))

    def _draw_waiting(self, stream: Stream, draw_all: Callable[[Sight], None]) -> None:
        """Draw the frames that wait for their step, unless the machine has no room for it."""
        try:
            draw_all(_ahead(stream))
        except (MemoryError, RuntimeError) as error:
            num = len(stream.state.pending)
            self.note(f"--explain: {num} frames waited for their step and are not drawn ({error})")

    def _give_up(self, error: OSError) -> None:
        """Note once that there is no more drawing."""
        if self.error is None:
            self.error = ValueError(f"--explain: {self.folder} cannot be written to ({error.strerror or error})")
            self.note(f"{self.error}; the stream goes on, and nothing more is drawn")

    def _take(self, account: Account, step: Sequence[Frame], view: tuple[int, int]) -> None:
        """Draw a frame if its turn has come and there is room."""
        self._seen += 1
        if (self._seen - 1) % self.every or self.error is not None:
            return
        if len(self.drawn) >= self.most:
            if not self.left_out:
                self.note(
                    f"--explain: {self.most} frames are drawn, the rest is not; --explain-every N draws every N-th,"
                    " --explain-most N draws more"
                )
            self.left_out += 1
            return
        name = f"{FRAMES}/{account.frame.index:06d}.png"
        self._fates |= set(np.unique(account.fate).tolist())
        page, boxes = draw(account, view)
        try:
            page.save(self.folder / name, compress_level=3)  # half the time of the default, a tenth more bytes
            with (self.folder / NUMBERS).open("a") as file:
                file.write(json.dumps(account.numbers(name, step)) + "\n")
        except OSError as error:
            self._give_up(error)
            with suppress(OSError):  # half a picture, or one without its numbers
                (self.folder / name).unlink(missing_ok=True)
            return
        self.drawn.append(
            Drawn(
                path=self.folder / name,
                boxes=boxes,
                index=account.frame.index,
                time_s=account.frame.time_s,
                kept=len(account.kept),
                tokens=account.tokens,
                work=account.share,
            )
        )

    def _finish(self) -> dict[str, Any]:
        """Draw the contact sheet of what was drawn so far, and tell where everything is."""
        sheet, is_there = self.folder / SHEET, bool(self.drawn)
        try:
            if self.drawn:
                draw_sheet(self.drawn, *self._title, fates=sorted(self._fates)).save(sheet)
        except OSError as error:
            self._give_up(error)
            is_there = False
            with suppress(OSError):
                sheet.unlink(missing_ok=True)
        return {
            "folder": str(self.folder),
            "pictures": len(self.drawn),
            "left_out": self.left_out,
            "sheet": str(sheet) if is_there else None,
            "numbers": str(self.folder / NUMBERS),
        }


def _index(line: str) -> int | None:
    """The frame a line of numbers is about, None where the line is not whole."""
    try:
        return int(json.loads(line)["frame"])
    except (ValueError, KeyError, TypeError):
        return None


def _ahead(stream: Stream) -> Sight:
    """What would become of the frames that wait for their step; the stream stays as it is."""
    state = stream.state
    state = replace(state, encoder=fork(state.encoder), compressor=fork(state.compressor))
    with torch.no_grad():
        return see(stream.pipeline, stream.backbone, state, state.pending, Stopwatch(stream.backbone))[2]


def draw(account: Account, view: tuple[int, int]) -> tuple[Image.Image, tuple[Box, ...]]:
    """Draw one frame: as the model sees it, its tokens, and, where the encoder is selective, the tower's work.

    Args:
        account: What became of it.
        view: (height, width) the model resizes it to.

    Returns:
        The page, and where the marked panels stand in it.
    """
    image = account.frame.image.cpu().numpy()
    height, width = image.shape[:2]
    base = drawing.seen(image, view, drawing.shape_of(height, width))
    kept = len(account.kept)
    panels = [
        Panel(f"frame of {width} x {height} as the model sees it, {view[1]} x {view[0]}", Image.fromarray(base)),
        Panel(
            f"to the decoder: {kept} of {account.tokens} tokens", Image.fromarray(drawing.draw_fate(base, account.fate))
        ),
    ]
    if account.share is not None:
        whole = account.share == 1.0
        told = "refresh, every patch computed" if whole else f"{account.share:.0%} of patch work computed"
        shown = base if account.work is None else drawing.draw_work(base, account.work)
        panels.append(Panel(f"tower: {told}", Image.fromarray(shown)))
    frame, share = account.frame, kept / max(account.tokens, 1)
    caption = f"frame {frame.index}   {frame.time_s:.2f} s   {share:.0%} of tokens kept"
    fates = sorted({KEPT, *np.unique(account.fate).tolist()})
    page, boxes = drawing.draw_page(panels, caption, fates=fates, work=account.work is not None)
    return page, boxes[1:]


def _ours(path: Path) -> bool:
    """True for a file or folder that an explanation writes."""
    if path.name == FRAMES and path.is_dir():
        return all(re.fullmatch(r"\d{6,}\.png", inner.name) for inner in path.iterdir())
    return path.name in (SHEET, NUMBERS) and path.is_file()
