"""What things look like: colours, outlines, and the pixels they cover."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RGB = {
    "red": (220, 40, 40),
    "green": (40, 185, 60),
    "blue": (50, 85, 235),
    "yellow": (240, 225, 50),
    "orange": (245, 140, 20),
    "purple": (145, 50, 185),
    "cyan": (60, 215, 225),
    "white": (245, 245, 245),
}
ODD_RGB = {"pink": (235, 150, 185), "brown": (120, 75, 40), "olive": (115, 120, 45), "grey": (135, 135, 135)}
OUTLINE = (16, 16, 16)

# Corners on a grid from -1000 to 1000, y pointing down.
CORNERS: dict[str, tuple[tuple[int, int], ...]] = {
    "square": ((-850, -850), (850, -850), (850, 850), (-850, 850)),
    "triangle": ((0, -1000), (1000, 850), (-1000, 850)),
    "diamond": ((0, -1000), (720, 0), (0, 1000), (-720, 0)),
    "cross": tuple(
        (x, y)
        for x, y in (
            (-330, -1000), (330, -1000), (330, -330), (1000, -330), (1000, 330), (330, 330),
            (330, 1000), (-330, 1000), (-330, 330), (-1000, 330), (-1000, -330), (-330, -330),
        )
    ),
    "star": (
        (0, -1000), (247, -340), (951, -309), (400, 130), (588, 809),
        (0, 420), (-588, 809), (-400, 130), (-951, -309), (-247, -340),
    ),
}  # fmt: skip
ODD_CORNERS: dict[str, tuple[tuple[int, int], ...]] = {
    "slab": ((-1000, -320), (1000, -320), (1000, 320), (-1000, 320)),
    "chevron": ((-1000, 800), (0, -800), (1000, 800), (600, 800), (0, -100), (-600, 800)),
}


@lru_cache(maxsize=256)
def stencil(shape: str, radius: int) -> NDArray[np.bool_]:
    """Return the pixels a sprite covers.

    Args:
        shape: One of the world's shapes or of the odd ones.
        radius: Half-width in pixels.

    Returns:
        (2 * radius + 1, 2 * radius + 1) booleans, the centre in the middle.
    """
    side = np.arange(-radius, radius + 1, dtype=np.int64)
    x, y = side[None, :] * 1000, side[:, None] * 1000
    if shape == "circle":
        return x * x + y * y <= (radius * 1000) ** 2
    if shape == "ring":
        far = x * x + y * y
        return (far <= (radius * 1000) ** 2) & (far >= (radius * 650) ** 2)
    inside = np.zeros((2 * radius + 1, 2 * radius + 1), dtype=np.bool_)
    corners = [(radius * u, radius * v) for u, v in (CORNERS | ODD_CORNERS)[shape]]
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        # A ray to the right crosses this edge: even-odd rule, multiplied out so that nothing is divided.
        side_of = (x - x1) * (y2 - y1) - (x2 - x1) * (y - y1)
        inside ^= ((y1 > y) != (y2 > y)) & ((side_of < 0) == (y2 > y1))
    return inside
