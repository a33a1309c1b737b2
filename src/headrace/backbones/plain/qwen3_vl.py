"""Qwen3-VL as transformers has it: configurations, tokenizer, processor files, whole conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from headrace.backbones.plain import qwen_vl
from headrace.backbones.plain.qwen_vl import END, SPECIAL_TOKENS, START, VIDEO, conversation, refill_tower
from headrace.backbones.plain.words import PAD, build_tokenizer
from headrace.backbones.plain.yardstick import Clip

MODEL = Qwen3VLForConditionalGeneration
PIXELS = "pixel_values_videos"
AROUND = 11  # "<3599.5 seconds>" is nine, and two delimiters
TIMES = (*(f"<{second}" for second in range(17)), "0", "5", "seconds>")

HUB = {f"qwen3-vl-{size}b": f"Qwen/Qwen3-VL-{size}B-Instruct" for size in (2, 4, 8)}

SMALL_TOWER = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
LARGE_TOWER = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}

# Released sizes, from memory of their configurations: decoder fields, and the tower each goes with.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-vl-2b": {
        "tower": SMALL_TOWER,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "qwen3-vl-4b": {
        "tower": SMALL_TOWER,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": True,
    },
    "qwen3-vl-8b": {
        "tower": LARGE_TOWER,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
}


def _config(*, vision: dict[str, Any], text: dict[str, Any]) -> Qwen3VLConfig:
    tokens = {"bos_token_id": None, "eos_token_id": SPECIAL_TOKENS.index("<|im_end|>")}
    return Qwen3VLConfig(
        vision_config={"model_type": "qwen3_vl_vision", **vision},
        text_config={
            "model_type": "qwen3_vl_text",
            **tokens,
            "pad_token_id": SPECIAL_TOKENS.index(PAD),
            **text,
        },
        tie_word_embeddings=bool(text.get("tie_word_embeddings", False)),
        **qwen_vl.special_ids(),
    )


def tiny_config(vocab_size: int) -> Qwen3VLConfig:
    """Return a shape small enough for tests: tokens of 14 px, 4x4 learned places, two deepstack layers."""
    return _config(
        vision={
            "depth": 3,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 7,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
            "out_hidden_size": 32,
        },
        text={
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]},
        },
    )


def shape_config(name: str) -> Qwen3VLConfig:
    """Return the shape of a released model."""
    text = dict(SHAPES[name])
    tower = text.pop("tower")
    return _config(
        vision={**tower, "num_heads": 16, "patch_size": 16, "out_hidden_size": text["hidden_size"]},
        text={
            "vocab_size": 151936,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000000.0, "mrope_section": [24, 20, 20]},
            **text,
        },
    )


def tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Build a word tokenizer with Qwen3-VL's control tokens and the words of its prompt, timestamps included."""
    words = ("user", "assistant", *TIMES, *words)
    return build_tokenizer(words, special=SPECIAL_TOKENS, eos="<|im_end|>", template=qwen_vl.CHAT_TEMPLATE)


def processors(config: Any) -> dict[str, dict[str, Any]]:
    """Processor files of a folder in the released layout, by file name."""
    unit = 2 * config.vision_config.patch_size
    pictures = {
        "size": {"shortest_edge": 4 * unit**2, "longest_edge": 24576 * unit**2},
        "patch_size": config.vision_config.patch_size,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return {
        "video_preprocessor_config.json": {**pictures, "video_processor_type": "Qwen3VLVideoProcessor"},
        "preprocessor_config.json": {**pictures, "image_processor_type": "Qwen2VLImageProcessorFast"},
    }


def inputs(model: Any, tokenizer: Any, messages: list[dict[str, Any]], clips: Sequence[Clip]) -> dict[str, Any]:
    """Arguments of ``forward`` and ``generate``; every pair of frames is written with the mean of its times."""
    videos = []
    for clip in clips:
        pairs = [clip.frames[i : i + 2] for i in range(0, len(clip.frames), 2)]
        middles = [(pair[0].time_s + pair[-1].time_s) / 2 for pair in pairs]
        videos.append("".join(f"<{middle:.1f} seconds>{START}{VIDEO}{END}" for middle in middles))
    return conversation(model, tokenizer, messages, clips, videos)


def refill(model: Any) -> None:
    """Fill the buffers of a model that was built without values."""
    refill_tower(model)
