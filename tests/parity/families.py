"""A tiny random model of every family: as transformers has it, and as the engine serves it."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import headrace
from headrace.backbones import plain
from headrace.engine import Engine, Stream
from headrace.types import Frame, View
from parity.models import WORDS

Turn = tuple[str, Sequence[Frame]]  # what is asked, and the frames that came before it


@dataclass(frozen=True, eq=False)
class Kin:
    """One family's model twice, with the same weights."""

    family: str
    model: Any
    tokenizer: Any
    engine: Engine
    max_pixels: int | None = None

    def looking(self, frame: Frame) -> Any:
        """The backbone as a stream that begins with this frame looks through it."""
        backbone = self.engine.backbone
        return backbone.at(backbone.choose(View(self.max_pixels, prompt="library"), frame))

    def open(self, pipeline: str = "full", *, backbone: Any = None, **options: Any) -> Stream:
        """A stream that writes as transformers does, through another backbone on the same weights if one is given."""
        engine = self.engine if backbone is None else Engine(backbone)
        return engine.open(pipeline, prompt="library", **options)

    def inputs(self, *turns: Turn, answers: Sequence[str] = ()) -> dict[str, Any]:
        """What transformers is given for a conversation whose last question is open."""
        messages, clips = [], []
        for i, (question, frames) in enumerate(turns):
            messages.append(plain.turn("user", question, videos=int(bool(frames))))
            messages += [plain.turn("assistant", answers[i])] if i < len(answers) else []
            clips += [plain.Clip(frames, self.looking(turns[0][1][0]).pixels(frames))] if frames else []
        return plain.inputs(self.model, self.tokenizer, messages, clips)

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        """transformers' logits of every row."""
        return plain.forward(self.model, **inputs)

    def generate(self, inputs: dict[str, Any], max_tokens: int) -> list[int]:
        """transformers' greedy answer."""
        return plain.generate(self.model, **inputs, max_tokens=max_tokens)


def write(family: str, folder: Path, *, seed: int = 1) -> None:
    """Write a family's tiny random model with ``save_pretrained``."""
    plain.save(*plain.tiny(family, WORDS, seed=seed, gain=10.0), folder)


@functools.cache
def kin(family: str) -> Kin:
    """Build a family's model once per process, save it, and load it into an engine and into transformers."""
    with tempfile.TemporaryDirectory() as folder:
        write(family, Path(folder))
        engine = headrace.load(folder, dtype="float32", device="cpu")
        model, tokenizer = plain.load(folder)
    return Kin(family, model, tokenizer, engine)
