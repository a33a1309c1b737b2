"""From a decoded picture to upright RGB."""

from __future__ import annotations

import struct

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headrace.video.errors import OPEN_ERRORS, VideoError, cause

#: (a, b, c, d) of the display matrices that turn by 0, 90, 180 and 270 degrees counterclockwise.
_QUARTER_TURNS = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))


def to_rgb(picture: av.VideoFrame) -> Tensor:
    """Convert any pixel format to RGB and turn the picture the way its display matrix says.

    Args:
        picture: A decoded frame.

    Returns:
        uint8 (height, width, 3), contiguous, of its own memory.

    Raises:
        VideoError: FFmpeg cannot convert this pixel format.
    """
    try:
        pixels: NDArray[np.uint8] = picture.to_ndarray(format="rgb24")
    except OPEN_ERRORS as problem:
        raise VideoError(f"a {picture.format.name} picture cannot become RGB: {cause(problem)}") from problem
    matrix = display_matrix(picture)
    if matrix is not None:
        pixels = upright(pixels, matrix)
    return torch.from_numpy(np.ascontiguousarray(pixels))


def display_matrix(picture: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """Return (a, b, c, d) of the frame's display matrix: x' = a x + c y, y' = b x + d y, y down; None without one.

    PyAV (18, for one) refuses to list a frame's side data when there is a kind among them that it has no name for,
    such as EXIF. Then only the angle is known, and a mirrored picture is turned but stays mirrored.
    """
    try:
        side = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:
        return _QUARTER_TURNS[round(picture.rotation / 90) % 4]
    if side is None:
        return None
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side))
    return a, b, c, d


def upright(pixels: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Apply the quarter turn and the mirroring nearest to a display matrix.

    Args:
        pixels: (height, width, 3).
        matrix: (a, b, c, d) as ``display_matrix`` gives it.

    Returns:
        A view of the pixels, (height, width, 3) or (width, height, 3).
    """
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        right, down = a, d
    else:
        pixels = pixels.transpose(1, 0, 2)
        right, down = c, b
    return pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
