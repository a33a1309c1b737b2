"""SmolVLM2 as transformers has it: configurations, tokenizer, processor files, whole conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm import processing_smolvlm as processing

from headrace.backbones.plain.words import PAD, UNKNOWN, build_tokenizer
from headrace.backbones.plain.yardstick import Clip, text_of

MODEL = SmolVLMForConditionalGeneration
PIXELS = "pixel_values"
AROUND = 13  # "\nFrame from 59:59:" is ten, and three delimiters

FAKE, GLOBAL, IMAGE = "<fake_token_around_image>", "<global-img>", "<image>"
SPECIAL_TOKENS = (PAD, UNKNOWN, "<|im_start|>", "<end_of_utterance>", FAKE, GLOBAL, IMAGE)

# transformers' intro without what a stream cannot know: the number of frames, and how long they last
INTRO = "You are provided the following series of frames from a video.\n"

HUB = {
    "smolvlm2-256m": "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
    "smolvlm2-500m": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
    "smolvlm2-2.2b": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
}

SHAPES: dict[str, dict[str, Any]] = {
    "smolvlm2-256m": {
        "text": {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
        },
    },
    "smolvlm2-500m": {
        "text": {
            "hidden_size": 960,
            "intermediate_size": 2560,
            "num_hidden_layers": 32,
            "num_attention_heads": 15,
            "num_key_value_heads": 5,
            "head_dim": 64,
        },
    },
    "smolvlm2-2.2b": {
        "vision": {
            "image_size": 384,
            "patch_size": 14,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
        },
        "text": {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 64,
        },
        "scale_factor": 3,
    },
}

SMALL_TOWER = {
    "image_size": 512,
    "patch_size": 16,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}


def smolvlm_config(
    *, vision: dict[str, Any], text: dict[str, Any], vocab_size: int, scale_factor: int
) -> SmolVLMConfig:
    """Build a SmolVLM configuration whose special ids are those of ``tokenizer``.

    Args:
        vision: Fields of the SigLIP tower.
        text: Fields of the Llama decoder.
        vocab_size: Size of the vocabulary.
        scale_factor: Patches per side that become one token.
    """
    return SmolVLMConfig(
        vision_config=vision,
        text_config={
            "model_type": "llama",
            "vocab_size": vocab_size,
            "bos_token_id": SPECIAL_TOKENS.index("<|im_start|>"),
            "eos_token_id": SPECIAL_TOKENS.index("<end_of_utterance>"),
            "pad_token_id": SPECIAL_TOKENS.index(PAD),
            **text,
        },
        image_token_id=SPECIAL_TOKENS.index(IMAGE),
        scale_factor=scale_factor,
        tie_word_embeddings=False,
    )


def tiny_config(vocab_size: int) -> SmolVLMConfig:
    """Return a SmolVLM2 small enough for tests: 27 px frames, 4x4 patches, 2x2 visual tokens, 3 decoder layers."""
    return smolvlm_config(
        vision={
            "image_size": 27,
            "patch_size": 6,
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 48,
        },
        text={
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        vocab_size=vocab_size,
        scale_factor=2,
    )


def shape_config(name: str) -> SmolVLMConfig:
    """Return the shape of a released model."""
    shape = SHAPES[name]
    rope = {"rope_type": "default", "rope_theta": 130000.0 if name.endswith("2.2b") else 100000.0}
    return smolvlm_config(
        vision=shape.get("vision", SMALL_TOWER),
        text={"max_position_embeddings": 8192, "rope_parameters": rope, **shape["text"]},
        vocab_size=49280,
        scale_factor=shape.get("scale_factor", 4),
    )


def tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Build a word tokenizer with the words of the prompt: names, intro, and the numbers of a time."""
    numbers = [f"{number:02d}" for number in range(60)]
    prompt = ("user", "assistant", *INTRO.lower().strip(".\n").split(), "frame", *numbers)
    return build_tokenizer(
        (*prompt, *words),
        special=SPECIAL_TOKENS,
        eos="<end_of_utterance>",
        template=processing.DEFAULT_CHAT_TEMPLATE,
    )


def processors(config: Any) -> dict[str, dict[str, Any]]:
    """Processor files of a folder in the released layout: one, for images, that says how videos are sampled."""
    side = config.vision_config.image_size
    return {
        "preprocessor_config.json": {
            "image_processor_type": "SmolVLMImageProcessor",
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "do_image_splitting": True,
            "do_pad": True,
            "max_image_size": {"longest_edge": side},
            "size": {"longest_edge": 4 * side},
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": side}},
            "resample": 1,
            "rescale_factor": 1 / 255,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
        "processor_config.json": {"processor_class": "SmolVLMProcessor", "image_seq_len": tokens_per_frame(config)},
    }


def tokens_per_frame(config: Any) -> int:
    """Visual tokens of one frame."""
    vision = config.vision_config
    return int((vision.image_size // vision.patch_size // config.scale_factor) ** 2)


def inputs(model: Any, tokenizer: Any, messages: list[dict[str, Any]], clips: Sequence[Clip]) -> dict[str, Any]:
    """Arguments of ``forward`` and ``generate``, with the text of transformers' processor, but for the intro."""
    text = text_of(tokenizer, messages, chat_template=processing.DEFAULT_CHAT_TEMPLATE)
    first, *rest = text.split("<video>")
    for clip, part in zip(clips, rest, strict=True):
        first += prompt(clip, tokens_per_frame(model.config)) + part
    ids = tokenizer(first, add_special_tokens=False, return_tensors="pt").input_ids
    return {"ids": ids, "pixels": torch.cat([clip.pixels for clip in clips])[None]}


def prompt(clip: Clip, num_tokens: int) -> str:
    """What transformers' processor writes for a video, with our intro."""
    shown: str = processing._prompt_single_image(num_tokens, FAKE, IMAGE, GLOBAL)
    text: str = INTRO
    for frame in clip.frames:
        stamp = f"{int(frame.time_s // 60):02d}:{int(frame.time_s % 60):02d}"
        text += processing.FRAME_TIMESTAMP_MESSAGE.format(timestamp=stamp) + shown
    return text + str(processing.DEFAULT_MEDIA_OUTTRO)


def refill(model: Any) -> None:
    """Nothing to fill: the tower's places are a table of weights."""
