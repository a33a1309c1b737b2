"""What the newline row should know early: a fourth throw-away head for the steps towards an answer about the past.

An answer such as "the first digit of this scene" needs the digit now, whether there was a cut, and how long ago. These
are told every frame, whether or not anybody could ask: after two layers what a frame and the one before it show, after
three what has to be carried along a scene, after four who came just before the newest. ``summary`` says there, too,
what questions ask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.train.pool import Take, views
from headrace.video.world import View
from headrace.video.world.kind import NUMBERS
from headrace.video.world.sprite import COLOURS, SHAPES, Sprite

OLDEST = 15  # frames of a scene that are told apart
NONE_GONE = len(SHAPES)
NEAR = {
    "digit": 10,
    "digit before": 11,
    "fresh": 2,
}  # classes of what is read after the first tap; 10 = no digit before
CARRIED = {
    "age": OLDEST + 1,
    "first digit": 10,
    "so far": len(NUMBERS),
    "now": len(NUMBERS),
    "gone": len(SHAPES) + 1,
    "oldest": len(SHAPES),
    "newest": len(SHAPES),
    "newest colour": len(COLOURS),
}
LAST = {f"before the newest {shape}": 2 for shape in SHAPES}  # several things may have come together
TAPS = (2, 3, 4)  # decoder layers before NEAR, CARRIED and LAST are read


class FactHead(nn.Module):
    """Reads facts off (R, D) newline rows of three depths."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.near = nn.Linear(width, sum(NEAR.values()))
        self.carried = nn.Linear(width, sum(CARRIED.values()))
        self.last = nn.Linear(width, sum(LAST.values()))

    def loss(self, depths: Sequence[Tensor], truth: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the mean loss over facts and the share right of each.

        Args:
            depths: The (R, D) rows after each of ``TAPS`` layers.
            truth: (R, K) int64 as ``tell`` gives it, K = 17.
        """
        total, right = depths[0].new_zeros((), dtype=torch.float32), {}
        found: list[Tensor] = []
        parts = (self.near, self.carried, self.last)
        for part, rows, sizes in zip(parts, depths, (NEAR, CARRIED, LAST), strict=True):
            rows = F.rms_norm(rows.float(), (rows.shape[1],), eps=1e-6)
            found += part(rows).float().split(list(sizes.values()), dim=1)
        for column, name in enumerate((*NEAR, *CARRIED, *LAST)):
            told = truth[:, column] >= 0
            if told.any():
                total = total + F.cross_entropy(found[column][told], truth[told, column]) / len(found)
                right[name] = float((found[column].argmax(dim=1) == truth[:, column])[told].float().mean())
        return total, right


def tell(frames: Sequence[tuple[Take, int]]) -> Tensor:
    """Write down the facts at the end of every frame of a clip.

    Args:
        frames: (take, index of the frame in the take), in the order of the stream.

    Returns:
        (T, K) int64, K = 17, -100 where two things could be meant or nothing is to be remembered.
    """
    return torch.tensor([_facts(view) for view in views(frames)])


def _facts(view: View) -> list[int]:
    scene, now = view.scene, view.ticks[-1]
    entries, exits = view.entries, view.exits
    fresh, old = len(view.ticks) == 1, scene.digit(view.ticks[0])
    return [
        scene.digit(now),
        10 if fresh else scene.digit(view.ticks[-2]),
        int(fresh),
        min(len(view.ticks) - 1, OLDEST),
        old if old != scene.digit(now) else -100,  # as long as it stands there, nothing has to be carried
        min(len(entries), len(NUMBERS) - 1),
        min(len(scene.visible(now)), len(NUMBERS) - 1),
        _shape(exits, max(exits.values())) if exits else NONE_GONE,
        _shape(entries, min(entries.values())) if entries else -100,
        _shape(entries, max(entries.values())) if entries else -100,
        _newest_colour(view, entries),
        *_before_newest(entries),
    ]


def _newest_colour(view: View, entries: dict[Sprite, int]) -> int:
    """Return the number of the first colour of the thing that came last, -100 where that is not clear."""
    newest = [sprite for sprite, tick in entries.items() if tick == max(entries.values())]
    colours = view.colours(newest[0]) if len(newest) == 1 else []
    return COLOURS.index(colours[0]) if colours else -100


def _before_newest(entries: dict[Sprite, int]) -> list[int]:
    """Tell for every shape whether it came at the last moment at which something came before the newest."""
    moments = sorted(set(entries.values()))
    came = {sprite.shape for sprite, tick in entries.items() if len(moments) > 1 and tick == moments[-2]}
    return [int(shape in came) for shape in SHAPES]


def _shape(moments: dict[Sprite, int], tick: int) -> int:
    """Return the number of the shape of the only sprite with that moment, -100 when there are several."""
    found = [sprite for sprite, moment in moments.items() if moment == tick]
    return SHAPES.index(found[0].shape) if len(found) == 1 else -100
