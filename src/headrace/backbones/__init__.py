"""Backbones: one adapter file per model family, the only doorway to transformers."""

from __future__ import annotations

from typing import Any

import torch

from headrace.backbones.llava_onevision import MODEL_TYPE as LLAVA_ONEVISION
from headrace.backbones.llava_onevision import LlavaOnevision
from headrace.backbones.loading import Checkpoint, ModelError
from headrace.protocols import Backbone

__all__ = ["FAMILIES", "ModelError", "adopt", "load"]

FAMILIES = {LLAVA_ONEVISION: LlavaOnevision}


def load(
    name: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Backbone:
    """Load a model by hub name or folder.

    Args:
        name: Hub name, or a folder in transformers' layout (sharded or not).
        revision: Branch, tag or commit on the hub.
        offline: Use only what is on this machine.
        dtype: Type of the weights, and of keys and values.
        device: Where they go.

    Returns:
        The backbone, ready to serve any number of streams.

    Raises:
        ModelError: Not found, damaged, or of a family that is not supported.
    """
    checkpoint = Checkpoint(name, revision=revision, offline=offline)
    config = checkpoint.config()
    if config.model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelError(f"model {name!r}: family {config.model_type!r} is not supported; supported: {known}")
    try:
        return FAMILIES[config.model_type].load(checkpoint, dtype=dtype, device=torch.device(device))
    except ModelError:
        raise
    except ValueError as error:  # from a part that does not know which model it was given
        raise ModelError(f"model {name!r}: {error}") from None


def adopt(model: Any, tokenizer: Any, *, name: str = "adopted") -> Backbone:
    """Serve a transformers model that is loaded already; nothing is set on it.

    Args:
        model: The model, in eval mode.
        tokenizer: Its tokenizer, with chat template.
        name: What to call it.

    Raises:
        ModelError: Its family is not supported.
    """
    family = model.config.model_type
    if family not in FAMILIES:
        raise ModelError(f"model {name!r}: family {family!r} is not supported; supported: {', '.join(FAMILIES)}")
    return FAMILIES[family].adopt(model, tokenizer, name=name)
