"""What a family's file in this room offers, and how it is found."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from headrace.types import Frame


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One video of a conversation: its frames, and what ``Backbone.pixels`` made of them ((F, C, height, width))."""

    frames: Sequence[Frame]
    pixels: Tensor


class Yardstick(Protocol):
    """What ``plain/<family>.py`` holds, as functions and constants of the module.

    Attributes:
        MODEL: transformers' class of the whole model.
        SHAPES: Names of released sizes, and what ``shape_config`` needs to build them.
        HUB: Hub name of the released checkpoint of every shape.
        PIXELS: The argument of transformers' forward that takes pixels.
        AROUND: Rows around a step of the stream's first hour at most, as the released tokenizer writes it (digits one
            by one): times and delimiters, not the newline that closes a clip.
    """

    MODEL: Any
    SHAPES: dict[str, Any]
    HUB: dict[str, str]
    PIXELS: str
    AROUND: int

    def tokenizer(self, words: Sequence[str]) -> PreTrainedTokenizerFast:
        """A word tokenizer with the family's control tokens, prompt words and chat template."""

    def tiny_config(self, vocab_size: int) -> Any:
        """A shape small enough for tests, whose special ids are those of ``tokenizer``."""

    def shape_config(self, name: str) -> Any:
        """The shape of a released model, with ``SHAPES[name]``."""

    def processors(self, config: Any) -> dict[str, dict[str, Any]]:
        """Processor files of a folder in the released layout, by file name."""

    def inputs(
        self, model: Any, tokenizer: Any, messages: list[dict[str, Any]], clips: Sequence[Clip]
    ) -> dict[str, Any]:
        """Arguments of ``forward`` and ``generate`` for a conversation: ``ids``, ``pixels`` and the family's others.

        Args:
            model: A plain model.
            tokenizer: Its tokenizer.
            messages: The conversation in the chat template's form.
            clips: The videos of it, in order.
        """

    def refill(self, model: Any) -> None:
        """Fill the buffers of a model that was built without values, all but the decoder's rotary frequencies."""


def of(family: str) -> Yardstick:
    """Find a family's file.

    Args:
        family: transformers' model type.
    """
    return cast(Yardstick, importlib.import_module(f"headrace.backbones.plain.{family}"))


def text_of(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    """Write a conversation as its chat template does, up to where the next answer starts."""
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))


def turn(role: str, text: str, *, videos: int = 0) -> Mapping[str, Any]:
    """A message of a conversation with that many videos before its text."""
    return {"role": role, "content": [{"type": "video"}] * videos + [{"type": "text", "text": text}]}
