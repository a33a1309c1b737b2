"""The plain model: transformers as it comes, for training, parity tests and baselines.

Nothing of the engine stands on this room. It builds configurations and random models, writes folders in the layout
``from_pretrained`` reads, and runs transformers' own forward and generate: the yardstick the re-driven model is
measured against. A family has one file here, called as its adapter; ``yardstick`` says what it holds.
"""

from headrace.backbones.plain.llava_onevision import CHAT_TEMPLATE, SPECIAL_TOKENS, chat_ids, nano_config, tiny_config
from headrace.backbones.plain.models import (
    build,
    build_large,
    forward,
    generate,
    inputs,
    load,
    prefill,
    save,
    shape_config,
    shapes,
    tiny,
    word_tokenizer,
)
from headrace.backbones.plain.yardstick import Clip, of, turn

__all__ = [
    "CHAT_TEMPLATE",
    "SPECIAL_TOKENS",
    "Clip",
    "build",
    "build_large",
    "chat_ids",
    "forward",
    "generate",
    "inputs",
    "load",
    "nano_config",
    "of",
    "prefill",
    "save",
    "shape_config",
    "shapes",
    "tiny",
    "tiny_config",
    "turn",
    "word_tokenizer",
]
