"""EOS threshold: stay silent as long as the model, asked now, would end its reply before it has begun.

Paper: VideoLLM-online (arXiv 2406.11816, CVPR 2024). Original: showlab/videollm-online (Apache-2.0).

A model can be trained to answer "nothing yet" with its end-of-text token. After every frame the probability of that
token as the first of a reply tells whether this is the moment: below a threshold the token is struck out and the
likeliest other one begins the reply. The threshold is there because silence is right most of the time, so that a
trained model leans towards it; the published demo uses 0.725.

Ours differs: there, one stream holds one conversation, and the decision is read after the frame's own rows; here every
standing instruction is asked anew after every frame, on a Context that is thrown away. Several tokens may end a reply;
they count as one. The threshold is .5 unless given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from headrace.protocols import Card, Method
from headrace.types import Decision, ModelSpec, Observation


@dataclass(frozen=True, kw_only=True)
class EosThreshold(Method):
    """Answer a standing instruction when the model would rather speak than stop at once.

    As published, silence must be at least as likely as the threshold and also the likeliest choice, so a very small
    threshold leaves the decision to the model. The published demo's value is 0.725.
    """

    threshold: float = 0.5  # speak when the probability of silence is below it, 0 < threshold <= 1

    card: ClassVar[Card] = Card(
        "VideoLLM-online's EOS decision",
        paper="https://arxiv.org/abs/2406.11816",
        licence="Apache-2.0",
        differs="asks each standing instruction anew after every frame, outside the stream's own text; the original"
        " reads the token after the frame's rows, where one conversation stands",
    )
    tunable: ClassVar[frozenset[str]] = frozenset({"threshold"})
    shorthand: ClassVar[str] = "threshold"
    reads_hidden: ClassVar[bool] = False
    reads_reply: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold: must be above 0 and at most 1, not {self.threshold}")

    def init(self, spec: ModelSpec) -> None:
        """Nothing to remember."""

    def step(self, state: None, seen: Observation) -> tuple[None, Decision]:
        """Compare the probability of silence with the threshold, then with the likeliest word."""
        assert seen.reply is not None, "this speaker is asked about replies"
        odds = torch.softmax(seen.reply.logits.float(), dim=-1)
        stop = torch.tensor(seen.reply.stop_ids, dtype=torch.int64, device=odds.device)
        silence, word = float(odds[stop].sum()), float(odds.index_fill(0, stop, 0.0).max())
        speak = silence < self.threshold or silence < word
        return None, Decision(speak, seen.reply.instruction if speak else "", min(1.0, max(0.0, 1 - silence)))
