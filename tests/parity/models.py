"""Tiny random models for tests: the plain transformers one and the engine on the same weights."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import headrace
from headrace.backbones import plain
from headrace.engine import Engine
from headrace.types import Frame, Segment, View

WORDS = tuple(f"w{i}" for i in range(60))
VIDEO = plain.SPECIAL_TOKENS.index("<video>")
QUESTION = "w1 w2 w3"


@dataclass(frozen=True, eq=False)
class Tiny:
    """A random model twice: as transformers has it, and as the engine serves it."""

    model: Any
    tokenizer: Any
    engine: Engine
    per_frame: bool

    def pixels(self, frames: list[Frame]) -> Tensor:
        """Frames of one clip as transformers' forward wants them."""
        px = self.engine.backbone.pixels(frames)
        return px[:, None] if self.per_frame else px[None]

    def clip_rows(self, num: int) -> list[int]:
        """Rows of every video that ``num`` frames become."""
        return [5] * num if self.per_frame else [4 * num + 1]

    def user(self, question: str, num_frames: int) -> dict[str, Any]:
        """A turn of the user with that many frames before the question."""
        videos = [{"type": "video"}] * len(self.clip_rows(num_frames) if num_frames else [])
        return {"role": "user", "content": [*videos, {"type": "text", "text": question}]}

    def ids(self, question: str, num_frames: int) -> Tensor:
        """The ids of one question after that many frames, tokenized as a whole."""
        return plain.chat_ids(self.tokenizer, [self.user(question, num_frames)], self.clip_rows(num_frames))


def assistant(text: str) -> dict[str, Any]:
    """A turn of the model."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def random_model(clip: str = "video", *, seed: int = 0, gain: float = 10.0, layer: int = -1, **text: Any) -> Any:
    """Build the plain model; it never says a special token, so that what it says can be tokenized again."""
    config = plain.tiny_config(len(plain.word_tokenizer(WORDS)), clip=clip, **text)
    config.vision_feature_layer = layer
    model = plain.build(config, seed=seed, gain=gain)
    if not config.tie_word_embeddings:
        model.lm_head.weight[: len(plain.SPECIAL_TOKENS)] = 0.0
    return model


@functools.cache
def tiny(clip: str = "video", *, layer: int = -1, seed: int = 0, dtype: str = "float32", **text: Any) -> Tiny:
    """Build a random model once per process, save it, and load it into an engine and into transformers."""
    tokenizer = plain.word_tokenizer(WORDS)
    with tempfile.TemporaryDirectory() as folder:
        plain.save(random_model(clip, seed=seed, layer=layer, **text), tokenizer, folder)
        engine = headrace.load(folder, dtype=dtype, device="cpu")
        model, _ = plain.load(folder, dtype=getattr(torch, dtype))
    return Tiny(model, tokenizer, engine, clip == "frame")


def frames(num: int, *, seed: int = 0, first: int = 0, size: tuple[int, int] = (28, 28)) -> list[Frame]:
    """Random pictures, one per second."""
    made = []
    for index in range(first, first + num):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)
        made.append(Frame(index, float(index), image))
    return made


class Recorder:
    """A backbone that notes every row it runs, with its logits; everything else is the real one's."""

    def __init__(self, backbone: Any) -> None:
        self._backbone = backbone
        self.segments: list[Segment] = []
        self.logits_seen: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def at(self, view: View) -> Recorder:
        """Look through another view, and note in the same place."""
        twin = Recorder(self._backbone.at(view))
        twin.segments, twin.logits_seen = self.segments, self.logits_seen
        return twin

    def extend(self, segment: Segment, context: Any, *, outputs: int | None = None, **options: Any) -> Tensor:
        """Run all rows to the end, hand out those that were asked for."""
        hidden = self._backbone.extend(segment, context, outputs=None, **options)
        self.segments.append(segment)
        self.logits_seen.append(self._backbone.logits(hidden))
        return hidden if outputs is None else hidden[hidden.shape[0] - outputs :]

    @property
    def ids(self) -> list[int]:
        """Vocabulary ids of all rows so far, visual and newline rows as ``<video>``."""
        return [VIDEO if token < 0 else token for seg in self.segments for token in seg.tokens.tolist()]

    @property
    def logits_of_all(self) -> Tensor:
        """(T, V) logits of all rows so far."""
        return torch.cat(self.logits_seen)
