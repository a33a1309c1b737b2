"""Backbones: one adapter file per model family, the only doorway to transformers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING
from transformers import __version__ as TRANSFORMERS

from headrace.backbones.adapter import Adapter
from headrace.backbones.loading import Checkpoint, ModelError
from headrace.protocols import Backbone

__all__ = ["FAMILIES", "TRANSFORMERS", "WEIGHTS", "ModelError", "adopt", "load"]

WEIGHTS = ("full", "int8")

# A family is a file that is called as transformers calls the model type; its module is imported when it is needed.
FAMILIES = tuple(sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem in CONFIG_MAPPING))


def load(
    name: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    weights: str = "full",
) -> Backbone:
    """Load a model by hub name or folder.

    Args:
        name: Hub name, or a folder in transformers' layout (sharded or not).
        revision: Branch, tag or commit on the hub.
        offline: Use only what is on this machine.
        dtype: Type of the weights, and of keys and values.
        device: Where they go.
        weights: One of ``WEIGHTS``: ``full``, or ``int8`` for the decoder's matrices in a quarter of fp32's memory.

    Returns:
        The backbone, ready to serve any number of streams.

    Raises:
        ModelError: Not found, damaged, or of a family that is not supported.
        ValueError: ``weights`` is unknown.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights: {weights!r} is unknown; known: {', '.join(WEIGHTS)}")
    checkpoint = Checkpoint(name, revision=revision, offline=offline, int8=weights == "int8")
    family = _adapter(checkpoint.config(), name)
    try:
        backbone: Backbone = family.load(checkpoint, dtype=dtype, device=torch.device(device))
    except ModelError:
        raise
    except ValueError as error:  # from a part that does not know which model it was given
        raise ModelError(f"model {name!r}: {error}") from None
    return backbone


def adopt(model: Any, tokenizer: Any, *, name: str = "adopted") -> Backbone:
    """Serve a transformers model that is loaded already; nothing is set on it.

    Args:
        model: The model, in eval mode. Its modules and parameters are not to be replaced from now on: on a GPU
            recordings would go on with the old ones.
        tokenizer: Its tokenizer, with chat template.
        name: What to call it.

    Raises:
        ModelError: Its family is not supported.
    """
    backbone: Backbone = _adapter(model.config, name).adopt(model, tokenizer, name=name)
    return backbone


def _adapter(config: Any, name: str) -> type[Any]:
    """Find a family's adapter: the one class its module defines for it.

    Raises:
        ModelError: There is none, or the configuration has parts that it does not serve; the line names those it does.
    """
    family = config.model_type
    if family not in FAMILIES:
        raise ModelError(f"model {name!r}: family {family!r} is not supported; supported: {', '.join(FAMILIES)}")
    module = importlib.import_module(f"headrace.backbones.{family}")
    own = [x for x in vars(module).values() if isinstance(x, type) and x.__module__ == module.__name__]
    found = [x for x in own if issubclass(x, Adapter)]
    (adapter,) = found
    try:
        adapter.check(config)
    except ValueError as error:
        raise ModelError(f"model {name!r}: {error}") from None
    return adapter
