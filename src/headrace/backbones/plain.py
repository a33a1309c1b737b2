"""The plain model: transformers as it comes, for training, parity tests and baselines.

Nothing of the engine stands on this file. It builds configurations and random models, writes folders in the layout
``from_pretrained`` reads, and runs transformers' own forward and generate: the yardstick the re-driven model is
measured against.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoTokenizer,
    DynamicCache,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
)

SPECIAL_TOKENS = ("<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")

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
            "pad_token_id": SPECIAL_TOKENS.index("<|pad|>"),
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
    """Return a LLaVA-OneVision small enough for tests: 28 px frames, 2x2 visual tokens, 3 decoder layers.

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
            "image_size": 28,
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
    """Return the real shape of a released model, for benchmarks with random weights; ``tiny`` is a test's.

    Raises:
        ValueError: The name is not in ``SHAPES``.
    """
    if name == "tiny":
        return tiny_config(64)
    if name not in SHAPES:
        raise ValueError(f"unknown model shape {name!r}; known: {', '.join(SHAPES)}")
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
        vocab_size=151936 if name.endswith("0.5b") else 152128,
    )


def build(config: LlavaOnevisionConfig, *, seed: int = 0, gain: float = 1.0) -> Any:
    """Build a model with random fp32 weights.

    Args:
        config: The shape.
        seed: Seed of the weights.
        gain: Factor on every matrix, so that tiny random models give logits worth comparing.

    Returns:
        The transformers model in eval mode, without gradients.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaOnevisionForConditionalGeneration(config)
    if gain != 1.0:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for param in model.parameters():
                if param.ndim > 1:
                    param.mul_(gain)
                else:
                    param.add_(torch.randn(param.shape, generator=generator) * 0.1)
    return model.eval().requires_grad_(False)


def build_large(config: LlavaOnevisionConfig, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Any:
    """Build a model of a real size with random weights, one copy of them, straight in ``dtype`` on ``device``.

    Rotary frequencies stay in fp32; norms are 1.
    """
    with torch.device("meta"):
        model = LlavaOnevisionForConditionalGeneration._from_config(config, dtype=dtype)
    model.to_empty(device=device)
    torch.manual_seed(seed)
    for name, param in model.named_parameters():
        if param.ndim > 1:
            param.data.normal_(0.0, 0.02)
        else:
            param.data.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    rotary = model.model.language_model.rotary_emb
    fresh = type(rotary)(config.text_config)
    rotary.inv_freq = fresh.inv_freq.float().to(device)
    rotary.original_inv_freq = fresh.inv_freq.float().to(device)
    positions = model.model.vision_tower.embeddings.position_ids
    positions.copy_(torch.arange(positions.shape[-1], device=device).expand(positions.shape))
    model.tie_weights()
    return model.eval().requires_grad_(False)


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Build a tokenizer that knows whole lower-case words and LLaVA-OneVision's chat template.

    Args:
        words: The vocabulary; ``user``, ``assistant`` and the special tokens are added.

    Returns:
        A fast tokenizer; white space separates words, case and punctuation are ignored, unknown words become
        ``<|unk|>``.
    """
    vocab = {word: i for i, word in enumerate(dict.fromkeys((*SPECIAL_TOKENS, "user", "assistant", *words)))}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<|unk|>"))
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex("[?.,!:;\"']"), " ")])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<|unk|>",
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save(model: Any, tokenizer: Any, folder: str | Path, **shard: Any) -> None:
    """Write a folder in transformers' layout: configuration, safetensors, tokenizer, template, processors.

    Args:
        model: A LLaVA-OneVision model.
        tokenizer: Its tokenizer.
        folder: Where to write; created if missing.
        **shard: Passed to ``save_pretrained``, e.g. ``max_shard_size``.
    """
    folder = Path(folder)
    model.save_pretrained(folder, **shard)
    tokenizer.save_pretrained(folder)
    size = model.config.vision_config.image_size
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
    video = {**pictures, "video_processor_type": "LlavaOnevisionVideoProcessor"}
    image = {
        **pictures,
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": [[size, size]],
    }
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": (size // model.config.vision_config.patch_size) ** 2,
        "vision_feature_select_strategy": "full",
    }
    for name, content in (
        ("video_preprocessor_config.json", video),
        ("preprocessor_config.json", image),
        ("processor_config.json", processor),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def load(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load a LLaVA-OneVision folder with transformers alone.

    Returns:
        The model in eval mode and the tokenizer.
    """
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def chat_ids(tokenizer: Any, messages: list[dict[str, Any]], video_rows: Sequence[int]) -> Tensor:
    """Tokenize a conversation and widen each ``<video>`` to the rows it stands for.

    Args:
        tokenizer: The model's tokenizer with its chat template.
        messages: Conversation in the chat template's form.
        video_rows: Rows of each video, newline included, in order.

    Returns:
        (1, T) int64 ids with the generation prompt at the end.
    """
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    rows = iter(video_rows)
    video = tokenizer.convert_tokens_to_ids("<video>")
    ids: list[int] = []
    for token in tokenizer(text, add_special_tokens=False).input_ids:
        ids.extend([token] * next(rows) if token == video else [token])
    return torch.tensor([ids])


@torch.inference_mode()
def forward(model: Any, ids: Tensor, pixels: Tensor) -> Tensor:
    """Run transformers' own forward.

    Args:
        model: A plain model.
        ids: (1, T) int64 with every visual row as ``<video>``.
        pixels: (videos, frames, C, height, width).

    Returns:
        (T, vocabulary) logits.
    """
    logits: Tensor = model(input_ids=ids, pixel_values_videos=pixels, use_cache=False).logits[0]
    return logits


@torch.inference_mode()
def generate(model: Any, ids: Tensor, pixels: Tensor, *, max_tokens: int) -> list[int]:
    """Run transformers' own greedy generate; returns the new ids, without the stop id."""
    out: list[int] = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=pixels,
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=model.config.text_config.eos_token_id,
        pad_token_id=model.config.text_config.pad_token_id,
    )[0, ids.shape[1] :].tolist()
    stop = model.config.text_config.eos_token_id
    return out[: out.index(stop)] if stop in out else out


@torch.inference_mode()
def prefill(model: Any, embeds: Tensor, cache: Any | None = None) -> tuple[Tensor, Any]:
    """Run transformers' decoder over new rows with its own cache.

    Args:
        model: A plain model.
        embeds: (T, D) rows to append.
        cache: The cache of the call before, None for the first.

    Returns:
        (T, D) last hidden rows and the cache.
    """
    cache = DynamicCache() if cache is None else cache
    out = model.model.language_model(inputs_embeds=embeds[None], past_key_values=cache, use_cache=True)
    return out.last_hidden_state[0], cache
