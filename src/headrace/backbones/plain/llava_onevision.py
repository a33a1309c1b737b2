"""LLaVA-OneVision as transformers has it: configurations, tokenizer, processor files, whole conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from headrace.backbones.plain.words import PAD, UNKNOWN, build_tokenizer
from headrace.backbones.plain.yardstick import Clip, text_of

MODEL = LlavaOnevisionForConditionalGeneration
PIXELS = "pixel_values_videos"
AROUND = 0

SPECIAL_TOKENS = (PAD, UNKNOWN, "<|im_start|>", "<|im_end|>", "<image>", "<video>")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% if message['content'] is string %}{{ '\n' + message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def llava_onevision_config(
    *,
    vision: dict[str, Any],
    text: dict[str, Any],
    vocab_size: int,
    headrace: dict[str, Any] | None = None,
) -> LlavaOnevisionConfig:
    """Build a LLaVA-OneVision configuration whose special ids are those of ``word_tokenizer``.

    Args:
        vision: Fields of the SigLIP tower.
        text: Fields of the Qwen2 decoder.
        vocab_size: Size of the vocabulary.
        headrace: What the engine has to know of the checkpoint beside the transformers fields: ``clip`` (``video``:
            one newline per clip; ``frame``: every frame is its own clip) and ``positions`` (the policy it was trained
            with once tokens are dropped, ``repack`` or ``original``).

    Returns:
        The configuration; ``headrace`` is kept as an extra field of config.json.
    """
    size, patch = vision["image_size"], vision["patch_size"]
    return LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision},
        text_config={
            "model_type": "qwen2",
            "vocab_size": vocab_size,
            "bos_token_id": None,
            "eos_token_id": SPECIAL_TOKENS.index("<|im_end|>"),
            "pad_token_id": SPECIAL_TOKENS.index(PAD),
            **text,
        },
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        video_token_index=SPECIAL_TOKENS.index("<video>"),
        image_grid_pinpoints=[[size, size]],
        tie_word_embeddings=bool(text.get("tie_word_embeddings", False)),
        vision_feature_layer=-1,
        headrace=headrace or {"clip": "video", "positions": "repack"},
        num_image_tokens=(size // patch) ** 2,
    )


def nano_config(vocab_size: int) -> LlavaOnevisionConfig:
    """Return the shape of the embedded model: 128 px frames, 8x8 visual tokens and a newline per frame."""
    return llava_onevision_config(
        vision={
            "image_size": 128,
            "patch_size": 8,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 512,
        },
        text={
            "hidden_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 768,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "tie_word_embeddings": True,
        },
        vocab_size=vocab_size,
        headrace={"clip": "frame", "positions": "original"},
    )


def tiny_config(vocab_size: int, *, clip: str = "video", **text: Any) -> LlavaOnevisionConfig:
    """Return a LLaVA-OneVision small enough for tests: 29 px frames, 2x2 visual tokens, 3 decoder layers.

    Patches of 7 px leave a pixel over, as released towers do (384 px, patches of 14).

    Args:
        vocab_size: Size of the vocabulary.
        clip: ``video`` or ``frame``, see ``llava_onevision_config``.
        **text: Decoder fields to override.
    """
    decoder: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": False,
    }
    return llava_onevision_config(
        vision={
            "image_size": 29,
            "patch_size": 7,
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 48,
        },
        text=decoder | text,
        vocab_size=vocab_size,
        headrace={"clip": clip, "positions": "original" if clip == "frame" else "repack"},
    )


HUB = {
    "llava-onevision-0.5b": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "llava-onevision-7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
}

SHAPES: dict[str, dict[str, Any]] = {
    "llava-onevision-0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "llava-onevision-7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}


def shape_config(name: str) -> LlavaOnevisionConfig:
    """Return the shape of a released model."""
    return llava_onevision_config(
        vision={
            "image_size": 384,
            "patch_size": 14,
            "hidden_size": 1152,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "intermediate_size": 4304,
        },
        text={
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            **SHAPES[name],
        },
        vocab_size=152000 if name.endswith("0.5b") else 152128,
    )


def tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Build a word tokenizer with LLaVA-OneVision's chat template; ``user`` and ``assistant`` are added."""
    words = ("user", "assistant", *words)
    return build_tokenizer(words, special=SPECIAL_TOKENS, eos="<|im_end|>", template=CHAT_TEMPLATE)


def processors(config: Any) -> dict[str, dict[str, Any]]:
    """Processor files of a folder in the released layout, by file name."""
    size, patch = config.vision_config.image_size, config.vision_config.patch_size
    pictures = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"height": size, "width": size},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    image = {"image_processor_type": "LlavaOnevisionImageProcessor", "image_grid_pinpoints": [[size, size]]}
    return {
        "video_preprocessor_config.json": {**pictures, "video_processor_type": "LlavaOnevisionVideoProcessor"},
        "preprocessor_config.json": {**pictures, **image},
        "processor_config.json": {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": (size // patch) ** 2,
            "vision_feature_select_strategy": "full",
        },
    }


def chat_ids(tokenizer: Any, messages: list[dict[str, Any]], video_rows: Sequence[int]) -> Tensor:
    """Tokenize a conversation and widen each ``<video>`` to the rows it stands for.

    Args:
        tokenizer: The model's tokenizer with its chat template.
        messages: Conversation in the chat template's form.
        video_rows: Rows of each video, newline included, in order.

    Returns:
        (1, T) int64 ids with the generation prompt at the end.
    """
    text = text_of(tokenizer, messages)
    rows = iter(video_rows)
    video = tokenizer.convert_tokens_to_ids("<video>")
    ids: list[int] = []
    for token in tokenizer(text, add_special_tokens=False).input_ids:
        ids.extend([token] * next(rows) if token == video else [token])
    return torch.tensor([ids])


def inputs(model: Any, tokenizer: Any, messages: list[dict[str, Any]], clips: Sequence[Clip]) -> dict[str, Any]:
    """Arguments of ``forward`` and ``generate``; the clips have equally many frames, one newline row each."""
    vision = model.config.vision_config
    grid = -(-(vision.image_size // vision.patch_size) // 2)
    rows = [len(clip.frames) * grid * grid + 1 for clip in clips]
    return {"ids": chat_ids(tokenizer, messages, rows), "pixels": torch.stack([clip.pixels for clip in clips])}


def refill(model: Any) -> None:
    """Fill the buffers of a model that was built without values."""
    positions = model.model.vision_tower.embeddings.position_ids
    positions.copy_(torch.arange(positions.shape[-1], device=positions.device).expand(positions.shape))
