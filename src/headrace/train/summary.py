"""What the last row of every frame could know: a third throw-away head asks it every question at once.

A clip is asked a dozen questions, but at the end of every frame some sixty have an answer. The newline row, which no
compressor drops, learns to hold the answers to all of them about the past, and which standing instructions come true
on this very frame; a question then only has to read them there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.train.pool import Take, views
from headrace.video.world import ALL_INSTRUCTIONS, ALL_KINDS, happening
from headrace.video.world.kind import PAST, texts

TAP = 4  # decoder layers before the head
KINDS = (*(name for name, kind in ALL_KINDS.items() if kind.group == PAST), "still", "count", "motion")
TEXTS = {text: (name, ALL_KINDS[name].answers) for name in KINDS for text in texts(ALL_KINDS[name].text)}
EVENTS = tuple(text for instruction in ALL_INSTRUCTIONS for text in texts(instruction))
SIZES = [len(answers) for _, answers in TEXTS.values()] + [2] * len(EVENTS)
FAMILIES = [name for name, _ in TEXTS.values()] + ["event"] * len(EVENTS)
AT = {text: number for number, text in enumerate((*TEXTS, *EVENTS))}


class SummaryHead(nn.Linear):
    """Reads the answers to all questions off (R, D) newline rows."""

    def __init__(self, width: int) -> None:
        super().__init__(width, sum(SIZES))

    def loss(self, rows: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the mean loss over kinds, for (R, D) rows with (R, K) answers, and the share right of each kind."""
        rows = F.rms_norm(rows.float(), (rows.shape[1],), eps=1e-6)
        width, starts = max(SIZES), torch.tensor([0, *SIZES]).cumsum(0)[:-1]
        told = (truth >= 0).nonzero()
        device = rows.device
        pick = torch.arange(width, device=device)
        sizes, first = torch.tensor(SIZES, device=device)[told[:, 1]], starts.to(device)[told[:, 1]]
        columns = (first[:, None] + pick).clamp(max=sum(SIZES) - 1)
        logits = self(rows).float()[told[:, :1], columns].masked_fill(pick >= sizes[:, None], -torch.inf)
        wanted = truth[told[:, 0], told[:, 1]]
        each = F.cross_entropy(logits, wanted, reduction="none")
        hit = logits.argmax(dim=1) == wanted
        total, right = rows.new_zeros(()), {}
        names = sorted(set(FAMILIES))
        family = torch.tensor([names.index(name) for name in FAMILIES], device=device)[told[:, 1]]
        for number, name in enumerate(names):
            chosen = family == number
            if chosen.any():
                total = total + each[chosen].mean() / len(names)
                right[name] = float(hit[chosen].float().mean())
        return total, right


def summarise(frames: Sequence[tuple[Take, int]]) -> Tensor:
    """Write down every answer there is at the end of every frame of a clip.

    Args:
        frames: (take, index of the frame in the take), in the order of the stream.

    Returns:
        (T, K) int64, -100 where a question has no clear answer.
    """
    out = torch.full((len(frames), len(SIZES)), -100)
    for number, view in enumerate(views(frames)):
        for name in KINDS:
            kind = ALL_KINDS[name]
            for text, answer in kind(view):
                out[number, AT[text]] = kind.answers.index(answer)
        happens = happening(view)
        for text in EVENTS:
            out[number, AT[text]] = int(text in happens)
    return out
