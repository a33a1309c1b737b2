"""Start from a trained checkpoint: the same words keep their rows, new words and new layers begin harmlessly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from headrace.backbones import plain


@torch.no_grad()
def grow(model: Any, tokenizer: Any, folder: Path) -> None:
    """Fill a model with the weights of a checkpoint that may know fewer words and have fewer decoder layers.

    A new word starts near the mean of the old ones, with as much of its own as they have; a new layer starts by adding
    nothing, so the grown model says what the old one did.

    Args:
        model: The LLaVA-OneVision model to fill.
        tokenizer: Its tokenizer.
        folder: The checkpoint.

    Raises:
        ValueError: The checkpoint has another shape in anything but words and layers, or more layers.
    """
    old, old_tokenizer = plain.load(folder)
    known = {name: weight.float() for name, weight in old.named_parameters()}
    layers = old.config.text_config.num_hidden_layers
    if layers > (most := model.config.text_config.num_hidden_layers):
        raise ValueError(f"{folder}: has {layers} decoder layers, and nano has {most}")
    table = old.model.language_model.embed_tokens.weight.float()
    for name, weight in model.named_parameters():
        if "embed_tokens" in name or "lm_head" in name:
            continue
        if name in known and known[name].shape == weight.shape:
            weight.copy_(known[name])
        elif "language_model.layers." not in name or int(name.split("layers.")[1].split(".")[0]) < layers:
            raise ValueError(f"{folder}: {name} is not of nano's shape {tuple(weight.shape)}")
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.zero_()
    mean = table.mean(dim=0)
    spread = (table - mean).pow(2).mean().sqrt()
    own = F.rms_norm(
        torch.randn(len(tokenizer), len(mean), generator=torch.Generator().manual_seed(len(tokenizer))), mean.shape
    )
    rows = mean + spread * own
    words = old_tokenizer.get_vocab()
    for word, number in tokenizer.get_vocab().items():
        if word in words:
            rows[number] = table[words[word]]
    model.model.language_model.embed_tokens.weight.copy_(rows)
