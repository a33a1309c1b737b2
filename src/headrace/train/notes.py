"""What a visual token could know of the past: a second throw-away head teaches the decoder to keep track.

Questions about time are few and each says one word; here every token of a sprite says, in the middle of the decoder,
which way its sprite goes, whether it is new, the newest or the oldest, whether it has changed colour and which colour
it had first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.train.pool import Take, views
from headrace.video.world import View
from headrace.video.world.script import COLOURS, DIRECTIONS, Sprite

NOTES = {"way": len(DIRECTIONS), "fresh": 2, "newest": 2, "oldest": 2, "altered": 2, "worn": len(COLOURS)}
TAP = 2  # decoder layers before the head


class NoteHead(nn.Linear):
    """Reads notes off (R, D) hidden rows."""

    def __init__(self, width: int) -> None:
        super().__init__(width, sum(NOTES.values()))

    def loss(self, rows: Tensor, notes: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the mean loss over (R, D) rows with (R, 6) notes, and the share right of each note."""
        rows = F.rms_norm(rows.float(), (rows.shape[1],), eps=1e-6)
        total, right = rows.new_zeros(()), {}
        for column, (name, found) in enumerate(
            zip(NOTES, self(rows).float().split(list(NOTES.values()), dim=1), strict=True)
        ):
            told = notes[:, column] >= 0
            if told.any():
                total = total + F.cross_entropy(found[told], notes[told, column]) / len(NOTES)
                right[name] = float((found.argmax(dim=1) == notes[:, column])[told].float().mean())
        return total, right


def take_notes(frames: Sequence[tuple[Take, int]]) -> Tensor:
    """Write the notes of a clip's tokens.

    Args:
        frames: (take, index of the frame in the take), in the order of the stream.

    Returns:
        (T, 64, 6) int64, -100 where there is nothing to note.
    """
    notes = torch.full((len(frames), frames[0][0].sprites.shape[1], len(NOTES)), -100)
    for number, ((take, index), view) in enumerate(zip(frames, views(frames), strict=True)):
        entries = view.entries
        for which, sprite in enumerate(take.scene.sprites):
            if take.scene.clear(sprite, take.ticks[index]):
                notes[number, take.sprites[index] == which] = torch.tensor(_note(sprite, view, entries))
    return notes


def _note(sprite: Sprite, view: View, entries: dict[Sprite, int]) -> list[int]:
    """Return the notes of a sprite on the view's last picture; -100 where unclear."""
    way, tick, ticks = -100, view.ticks[-1], list(entries.values())
    if len(view.ticks) > 1 and sprite.visible(view.ticks[-2]):
        ways = {sprite.heading(step) for step in range(view.ticks[-2] + 1, tick + 1)}
        if len(ways) == 1 and (name := ways.pop()):
            way = list(DIRECTIONS).index(name)
    newest, oldest, colours = max(ticks), min(ticks), view.colours(sprite)
    return [
        way,
        int(entries[sprite] == tick),
        int(entries[sprite] == newest) if ticks.count(newest) == 1 else -100,
        int(entries[sprite] == oldest) if ticks.count(oldest) == 1 else -100,
        int(len(set(colours)) > 1),
        COLOURS.index(colours[0]),
    ]
