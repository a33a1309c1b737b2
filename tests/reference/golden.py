"""Check golden files, outputs of published code, against our methods: ``python -m tests.reference.golden FILE...``.

A family is recognised by the method its metadata names (``flash-vstream B``: the twin ``flash_vstream``) or by a tensor
only it has; each method's check stands in its twin as ``golden``. One line per file; the exit
status is 1 on a mismatch, a damaged file or an unknown family.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

#: Family: a tensor only its files have, and the twins that check it.
FAMILIES = {
    "stc": ("cacher.hidden", ("stc_cacher", "stc_pruner")),
    "rekv": ("question0.context_k", ("rekv",)),
    "infllm": ("representative_tokens", ("infllm",)),
}
TOLERANCE = 1e-4  # of the largest value


def named(settings: dict[str, str]) -> list[str]:
    """The twin called like the first word of what the file says it is of, if that has a check."""
    first = settings.get("method", "").lower().replace("-", "_").split()[:1]
    return [name for name in first if name in checked()]


def checked() -> list[str]:
    """All twins with a check."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if "\ndef golden(" in path.read_text())


class MismatchError(AssertionError):
    """A golden file and our method differ."""


def close(name: str, found: Tensor, expected: Tensor) -> str:
    """Compare real values; returns what was found.

    Raises:
        MismatchError: They differ by more than ``TOLERANCE`` of the largest value.
    """
    if found.shape != expected.shape:
        raise MismatchError(f"{name}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    worst = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not worst <= TOLERANCE:
        raise MismatchError(f"{name}: differs by {worst:.1e} of the largest value")
    return f"{name} within {worst:.1e}"


def equal(name: str, found: Tensor, expected: Tensor) -> str:
    """Compare integers; returns what was found.

    Raises:
        MismatchError: They differ.
    """
    if found.shape != expected.shape or not torch.equal(found, expected):
        num = int((found != expected).sum()) if found.shape == expected.shape else -1
        raise MismatchError(
            f"{name}: {num} of {expected.numel()} values differ" if num >= 0 else f"{name}: another shape"
        )
    return f"{name} equal"


def check(path: Path) -> str:
    """Check one file; returns what was found.

    Raises:
        MismatchError: Our method gives something else.
        ValueError: The file is damaged, or of no known family.
    """
    try:
        with safe_open(str(path), "pt") as file:
            settings = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot be read ({error})") from None
    marked = [twin for mark, twins in FAMILIES.values() if mark in tensors for twin in twins]
    if twins := named(settings) or marked:
        return ", ".join(importlib.import_module(f"reference.{twin}").golden(tensors, settings) for twin in twins)
    raise ValueError(f"no known family; known: {', '.join(checked())}")


def main(paths: list[str]) -> int:
    """Check files and print a line each."""
    failed = not paths
    for path in paths:
        try:
            sys.stdout.write(f"{path}: ok, {check(Path(path))}\n")
        except KeyError as error:
            failed = True
            sys.stdout.write(f"{path}: FAILED, it lacks {error}\n")
        except (
            Exception
        ) as error:  # a damaged file makes a model fail in its own way; the others are checked all the same
            failed = True
            kind = "" if isinstance(error, MismatchError | ValueError) else f"{type(error).__name__}: "
            sys.stdout.write(f"{path}: FAILED, {kind}{(str(error).splitlines() or [''])[0]}\n")
    if not paths:
        sys.stdout.write("usage: python -m tests.reference.golden FILE...\n")
    return int(failed)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(importlib.import_module("reference.golden").main(sys.argv[1:]))  # the module the twins know
