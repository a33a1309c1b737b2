"""Models of any family as transformers has them: random, tiny or large; written, loaded, run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, DynamicCache, PreTrainedTokenizerFast

from headrace.backbones import FAMILIES
from headrace.backbones.plain.yardstick import Clip, of

DEFAULT = "llava_onevision"


def build(config: Any, *, seed: int = 0, gain: float = 1.0) -> Any:
    """Build a model with random fp32 weights.

    Args:
        config: The shape, of any family.
        seed: Seed of the weights.
        gain: Factor on every matrix, so that tiny random models give logits worth comparing.

    Returns:
        The transformers model in eval mode, without gradients.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = of(config.model_type).MODEL(config)
    if gain != 1.0:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for param in model.parameters():
                if param.ndim > 1:
                    param.mul_(gain)
                else:
                    param.add_(torch.randn(param.shape, generator=generator) * 0.1)
    return model.eval().requires_grad_(False)


def build_large(config: Any, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Any:
    """Build a model of a real size with random weights, one copy of them, straight in ``dtype`` on ``device``.

    Rotary frequencies stay in fp32; norms are 1. On the device ``meta`` only the frequencies have values.
    """
    family = of(config.model_type)
    with torch.device("meta"):
        model = family.MODEL._from_config(config, dtype=dtype)
    model.to_empty(device=device)
    torch.manual_seed(seed)
    for name, param in model.named_parameters():
        if param.ndim > 1:
            param.data.normal_(0.0, 0.02)
        else:
            param.data.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    rotary = model.get_decoder().rotary_emb
    fresh = type(rotary)(config.text_config).inv_freq.float().to("cpu" if device.type == "meta" else device)
    rotary.inv_freq, rotary.original_inv_freq = fresh, fresh.clone()
    family.refill(model)
    model.tie_weights()
    return model.eval().requires_grad_(False)


def shapes() -> dict[str, str]:
    """Names of all released shapes, and their families."""
    return {name: family for family in FAMILIES for name in of(family).SHAPES}


def shape_config(name: str) -> Any:
    """Return the real shape of a released model, for benchmarks with random weights; ``tiny`` is a test's.

    Raises:
        ValueError: The name is not in ``shapes``.
    """
    if name == "tiny":
        return of(DEFAULT).tiny_config(64)
    known = shapes()
    if name not in known:
        raise ValueError(f"unknown model shape {name!r}; known: {', '.join(known)}")
    return of(known[name]).shape_config(name)


def word_tokenizer(words: Sequence[str], family: str = DEFAULT) -> PreTrainedTokenizerFast:
    """Build a tokenizer that knows whole lower-case words and a family's chat template.

    Args:
        words: The vocabulary; the words of the family's prompt and its control tokens are added.
        family: transformers' model type.

    Returns:
        A fast tokenizer; white space separates words, case and punctuation are ignored, unknown words become
        ``<|unk|>``.
    """
    return of(family).tokenizer(words)


def tiny(family: str, words: Sequence[str], *, seed: int = 0, gain: float = 6.0) -> tuple[Any, Any]:
    """Build a random model of a family, small enough for tests, and its word tokenizer.

    It never says a control token, so that what it says can be tokenized again.
    """
    tokenizer = of(family).tokenizer(words)
    model = build(of(family).tiny_config(len(tokenizer)), seed=seed, gain=gain)
    model.lm_head.weight[tokenizer.all_special_ids] = 0.0
    return model, tokenizer


def save(model: Any, tokenizer: Any, folder: str | Path, **shard: Any) -> None:
    """Write a folder in transformers' layout: configuration, safetensors, tokenizer, template, processors.

    Args:
        model: A plain model.
        tokenizer: Its tokenizer.
        folder: Where to write; created if missing.
        **shard: Passed to ``save_pretrained``, e.g. ``max_shard_size``.
    """
    folder = Path(folder)
    model.save_pretrained(folder, **shard)
    tokenizer.save_pretrained(folder)
    for name, content in of(model.config.model_type).processors(model.config).items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def load(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load a folder of any family with transformers alone.

    Returns:
        The model in eval mode and the tokenizer.
    """
    family = of(AutoConfig.from_pretrained(folder, local_files_only=True).model_type)
    model = family.MODEL.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def inputs(model: Any, tokenizer: Any, messages: list[dict[str, Any]], clips: Sequence[Clip]) -> dict[str, Any]:
    """Arguments of ``forward`` and ``generate`` for a conversation; see ``yardstick.Yardstick.inputs``."""
    return of(model.config.model_type).inputs(model, tokenizer, messages, clips)


@torch.inference_mode()
def forward(model: Any, ids: Tensor, pixels: Tensor, **more: Any) -> Tensor:
    """Run transformers' own forward.

    Args:
        model: A plain model.
        ids: (1, T) int64 with every visual row as the family's placeholder.
        pixels: As the family takes them, e.g. (videos, frames, C, height, width).
        **more: Further inputs of the family.

    Returns:
        (T, vocabulary) logits.
    """
    pictures = {of(model.config.model_type).PIXELS: pixels}
    logits: Tensor = model(input_ids=ids, use_cache=False, **pictures, **more).logits[0]
    return logits


@torch.inference_mode()
def generate(model: Any, ids: Tensor, pixels: Tensor, *, max_tokens: int, **more: Any) -> list[int]:
    """Run transformers' own greedy generate; returns the new ids, without the stop id."""
    stop = model.config.text_config.eos_token_id
    pictures = {of(model.config.model_type).PIXELS: pixels}
    out: list[int] = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=stop,
        pad_token_id=model.config.text_config.pad_token_id,
        **pictures,
        **more,
    )[0, ids.shape[1] :].tolist()
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
    out = model.get_decoder()(inputs_embeds=embeds[None], past_key_values=cache, use_cache=True)
    return out.last_hidden_state[0], cache
