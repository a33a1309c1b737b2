"""Qwen2.5-VL as transformers has it: configurations, tokenizer, processor files, whole conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from headrace.backbones.plain import qwen_vl
from headrace.backbones.plain.qwen_vl import SPECIAL_TOKENS, VIDEO, conversation, refill_tower
from headrace.backbones.plain.words import PAD, build_tokenizer
from headrace.backbones.plain.yardstick import Clip

MODEL = Qwen2_5_VLForConditionalGeneration
PIXELS = "pixel_values_videos"
AROUND = 0
SYSTEM = "You are a helpful assistant."

CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n" + SYSTEM + "<|im_end|>\n' }}{% endif %}"
) + qwen_vl.CHAT_TEMPLATE

HUB = {size: f"Qwen/Qwen2.5-VL-{size[-2:].upper()}-Instruct" for size in ("qwen2.5-vl-3b", "qwen2.5-vl-7b")}

# Decoders of the released sizes, from memory of their configurations.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-vl-3b": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "qwen2.5-vl-7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}


def _config(*, vision: dict[str, Any], text: dict[str, Any]) -> Qwen2_5_VLConfig:
    tokens = {"bos_token_id": None, "eos_token_id": SPECIAL_TOKENS.index("<|im_end|>")}
    return Qwen2_5_VLConfig(
        vision_config={"model_type": "qwen2_5_vl_vision", **vision},
        text_config={**tokens, "pad_token_id": SPECIAL_TOKENS.index(PAD), **text},
        tie_word_embeddings=bool(text.get("tie_word_embeddings", False)),
        **qwen_vl.special_ids(),
    )


def tiny_config(vocab_size: int) -> Qwen2_5_VLConfig:
    """Return a shape small enough for tests: tokens of 14 px, windows of 2x2 tokens, one tower layer that sees all."""
    return _config(
        vision={
            "depth": 3,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 7,
            "window_size": 28,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
            "tokens_per_second": 2,
        },
        text={
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        },
    )


def shape_config(name: str) -> Qwen2_5_VLConfig:
    """Return the shape of a released model."""
    return _config(
        vision={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": SHAPES[name]["hidden_size"],
            "tokens_per_second": 2,
        },
        text={
            "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
            **SHAPES[name],
        },
    )


def tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Build a word tokenizer with Qwen2.5-VL's control tokens and the words of its prompt."""
    words = ("system", "user", "assistant", *SYSTEM.lower().strip(".").split(), *words)
    return build_tokenizer(words, special=SPECIAL_TOKENS, eos="<|im_end|>", template=CHAT_TEMPLATE)


def processors(config: Any) -> dict[str, dict[str, Any]]:
    """Processor files of a folder in the released layout, by file name; frames may be as small as one token."""
    unit = 2 * config.vision_config.patch_size
    pictures = {
        "size": {"shortest_edge": unit**2, "longest_edge": 768 * unit**2},
        "patch_size": config.vision_config.patch_size,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    return {
        "video_preprocessor_config.json": {**pictures, "video_processor_type": "Qwen2VLVideoProcessor"},
        "preprocessor_config.json": {**pictures, "image_processor_type": "Qwen2VLImageProcessor"},
    }


def inputs(model: Any, tokenizer: Any, messages: list[dict[str, Any]], clips: Sequence[Clip]) -> dict[str, Any]:
    """Arguments of ``forward`` and ``generate``; a clip's frames come evenly."""
    found = conversation(model, tokenizer, messages, clips, [VIDEO * -(-len(clip.frames) // 2) for clip in clips])
    apart = [clip.frames[1].time_s - clip.frames[0].time_s if len(clip.frames) > 1 else 1.0 for clip in clips]
    return {**found, "second_per_grid_ts": torch.tensor([2 * seconds for seconds in apart])}


def refill(model: Any) -> None:
    """Fill the buffers of a model that was built without values."""
    refill_tower(model)
