"""The synthetic world as a source like any other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from torch import Tensor

from headrace.video.shots import Facts, Shot
from headrace.video.world.source import WorldSource, open_world


class WorldReader:
    """Reads the world described by the text after ``world:``."""

    def __init__(self, text: str) -> None:
        """Open the world.

        Raises:
            ValueError: The text is not the description of a world.
        """
        self.source: WorldSource = open_world(text)
        begin, stop, fps = self.source.start, self.source.stop, self.source.fps
        count = None if stop is None else stop - begin
        self.facts = Facts(
            f"world:{text}",
            fps=fps,
            duration_s=None if count is None else count / fps,
            num_frames=count,
            begins_s=begin / fps,
        )

    def shots(self, start_s: float) -> Iterator[Shot]:
        """Yield the world's pictures from the given second on; nothing before it is rendered."""
        tick = max(self.source.start, math.ceil(start_s * self.source.fps))
        for frame in replace(self.source, start=tick):
            yield Shot(frame.time_s, partial(_image, frame.image), frame.gap)

    def close(self) -> None:
        """Nothing is held open."""


def _image(image: Tensor) -> Tensor:
    return image
