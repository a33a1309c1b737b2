"""Sources that are pictures already: a photo, an animation, a folder of photos, an array, an iterable of arrays."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from headrace.video.errors import VideoError
from headrace.video.shots import Facts, Shot, Warn

#: Suffixes that are read as photos.
PHOTO_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})

#: What Pillow raises at a file that is no picture, or a damaged one.
PHOTO_ERRORS: tuple[type[Exception], ...] = (OSError, EOFError, SyntaxError, ValueError)

_ANIMATED = frozenset({"PNG", "WEBP", "GIF"})  # other formats hold several pictures that do not follow in time
_DEFAULT_DELAY_MS = 100  # of a picture of an animation that gives none, as browsers have it
_MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # of a photo that Pillow reads; from half of it on it warns


def load_photo(path: Path) -> Tensor:
    """Read one photo, or the first picture of an animation, turned as its EXIF orientation says.

    Returns:
        uint8 (height, width, 3) RGB.

    Raises:
        VideoError: The file is not a picture, or is damaged.
    """
    with _named(path), _open(path) as photo:
        return _upright_rgb(photo)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Make what Pillow raises a VideoError that names the file."""
    try:
        yield
    except Image.DecompressionBombError as problem:
        raise VideoError(f"cannot read {path}: it has more than {_MOST_PIXELS // 10**6} million pixels") from problem
    except PHOTO_ERRORS as problem:
        why = "damaged" if not isinstance(problem, UnidentifiedImageError) else "not a picture"
        raise VideoError(f"cannot read {path}: the file is {why}; a png, jpeg, webp or bmp is expected") from problem


def _open(path: Path) -> Image.Image:
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        return Image.open(path)


def _upright_rgb(photo: Image.Image) -> Tensor:
    upright = ImageOps.exif_transpose(photo)
    if upright.mode.startswith("I;16"):  # Pillow clips 16-bit grey at 255 instead of scaling it
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    return torch.from_numpy(np.array(upright.convert("RGB")))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``frame2`` comes before ``frame10``; ties are broken by the plain name."""
    parts = re.findall(r"\d+|\D+", name)
    key = [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts]
    return [*key, (-1, 0, name)]


class PhotoReader:
    """Photos in a given order, one every ``1 / fps`` seconds; damaged ones are left out with a warning.

    Attributes:
        facts: What is known about them.
        pictures: Their times in seconds by name; where they go on behind a picture, that one, too.
    """

    def __init__(
        self, name: str, paths: list[Path], fps: float, warn: Warn, behind: tuple[str, float] | None = None
    ) -> None:
        """Take photos in order, behind one of this name and time in seconds that was seen earlier."""
        names, begins_s = [path.name for path in paths], 0.0
        if behind is not None:
            names, begins_s = [behind[0], *names], behind[1]
        self.facts = Facts(
            name,
            fps=fps,
            duration_s=len(names) / fps,
            num_frames=len(paths),
            begins_s=begins_s,
            nothing_new=not paths,
        )
        self.pictures = {name: begins_s + i / fps for i, name in enumerate(names)}
        self._paths, self._warn, self._lone = paths, warn, len(names) == 1

    def shots(self, start_s: float) -> Iterator[Shot]:
        """Yield one shot per photo, at the times of ``pictures``."""
        gap = False
        for path in self._paths:
            time_s = self.pictures[path.name]
            if time_s < start_s:
                continue
            try:
                image = load_photo(path)
            except VideoError as problem:
                if self._lone:
                    raise
                self._warn(f"{problem}; it was left out")
                gap = True
                continue
            yield Shot(time_s, partial(_same, image), gap)
            gap = False

    def close(self) -> None:
        """Nothing is held open between photos."""


class AnimationReader:
    """The pictures of an animated PNG, WebP or GIF file with the times it gives them, once; one is held at a time."""

    def __init__(self, path: Path, warn: Warn) -> None:
        """Open a file that Pillow reads.

        Raises:
            VideoError: It is no picture, or is damaged.
        """
        with _named(path):
            self._animation = _open(path)
            self._first = int(getattr(self._animation, "default_image", False))  # shown only where nothing moves
            self._end: int = getattr(self._animation, "n_frames", 1)
        self._warn = warn
        self.facts = Facts(str(path), num_frames=self._end - self._first)

    def shots(self, start_s: float) -> Iterator[Shot]:
        """Yield the pictures from the first one on: each builds on the one before it."""
        del start_s
        time_ms = 0.0
        for i in range(self._first, self._end):
            try:
                self._animation.seek(i)
                image = _upright_rgb(self._animation)
            except PHOTO_ERRORS:
                used = f"the {i - self._first} frames that decode were used"
                self._warn(f"{self.facts.name} is cut short or damaged: {used}")
                return
            yield Shot(time_ms / 1000, partial(_same, image))
            time_ms += self._animation.info.get("duration", 0) or _DEFAULT_DELAY_MS

    def close(self) -> None:
        """Close the file."""
        self._animation.close()


def open_photo(path: Path, fps: float, warn: Warn) -> PhotoReader | AnimationReader:
    """Open one photo as a one-frame video, or an animation; a broken one is refused at once.

    Args:
        path: The file.
        fps: Frames per second of a photo; an animation has times of its own.
        warn: Told where an animation breaks off.

    Raises:
        VideoError: The file is not a picture.
    """
    with _named(path), _open(path) as photo:
        if photo.format in _ANIMATED and getattr(photo, "n_frames", 1) > 1:
            return AnimationReader(path, warn)
        _upright_rgb(photo)
    return PhotoReader(str(path), [path], fps, warn)


def open_folder(folder: Path, fps: float, warn: Warn, behind: tuple[str, float] | None = None) -> PhotoReader:
    """Open the photos directly inside a folder, in natural order of their names.

    Args:
        folder: Where they lie.
        fps: Photos per second.
        warn: Told of damaged ones, and where the one to go on behind is gone.
        behind: Name and time in seconds of the last one that was seen earlier; only those that sort behind it are
            opened, and times go on from it. Which place it had then tells nothing: older ones may be gone.

    Raises:
        VideoError: The folder holds no photo.
    """
    found = [p for p in folder.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file()]
    if not found:
        raise VideoError(f"no images in the folder {folder}; png, jpeg, webp or bmp files are expected in it")
    found.sort(key=lambda path: natural_key(path.name))
    if behind is not None:
        new = [path for path in found if natural_key(path.name) > natural_key(behind[0])]
        if (old := len(found) - len(new)) and all(path.name != behind[0] for path in found):
            warn(f"{behind[0]}, seen last, is gone from {folder}; {old} images that sort before it are left out")
        elif not old:
            warn(f"{behind[0]}, seen last, is gone from {folder}; images between it and the first one may be, too")
        found = new
    return PhotoReader(str(folder), found, fps, warn, behind)


class ArrayReader:
    """Pictures in memory, one every ``1 / fps`` seconds: an array (T,H,W,3), or any iterable of (H,W,3)."""

    def __init__(self, pictures: Iterable[Any], fps: float) -> None:
        self._pictures, self._fps = _unstack(pictures), fps
        count = len(self._pictures) if isinstance(self._pictures, list) else None
        if count == 0:
            raise VideoError("an array source needs at least one frame; this one has none")
        duration = None if count is None else count / fps
        self.facts = Facts("array", fps=fps, duration_s=duration, num_frames=count)

    def shots(self, start_s: float) -> Iterator[Shot]:
        """Yield one shot per picture; picture ``i`` has the time ``i / fps``.

        What an iterable hands out is copied: many cameras fill one and the same array again for every picture.

        Raises:
            VideoError: A picture is not uint8 (H,W,3).
        """
        kept = isinstance(self._pictures, list)
        for i, picture in enumerate(self._pictures):
            image = _as_image(picture, f"frame {i}")
            yield Shot(i / self._fps, partial(_same, image if kept else image.clone()))

    def close(self) -> None:
        """Close the iterable if it is a generator that can be closed."""
        close = getattr(self._pictures, "close", None)
        if close is not None:
            close()


def _unstack(pictures: Iterable[Any]) -> list[Any] | Iterable[Any]:
    if isinstance(pictures, np.ndarray | Tensor):
        shape = tuple(pictures.shape)
        if len(shape) == 3:
            return [_as_image(pictures, "the array")]
        if len(shape) != 4 or shape[3] != 3 or str(pictures.dtype).removeprefix("torch.") != "uint8":
            raise VideoError(f"an array source must be uint8 (T, H, W, 3), not {pictures.dtype} {shape}")
        return list(pictures)
    if isinstance(pictures, list | tuple):
        return [_as_image(picture, f"frame {i}") for i, picture in enumerate(pictures)]
    return pictures


def _as_image(picture: Any, what: str) -> Tensor:
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8:
        picture = torch.from_numpy(np.require(picture, requirements=["C", "W"]))  # a copy only where one is needed
    shape = tuple(getattr(picture, "shape", ()))
    if not isinstance(picture, Tensor) or picture.dtype != torch.uint8 or len(shape) != 3 or shape[2] != 3:
        kind = getattr(picture, "dtype", type(picture).__name__)
        raise VideoError(f"{what} must be a uint8 (H, W, 3) array, not {kind} {shape or ''}".rstrip())
    return picture


def _same(image: Tensor) -> Tensor:
    return image
