"""Where a figure was measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import headrace

SAME = ("cpu", "accelerator", "torch", "transformers", "headrace")  # what must not change within a measurement


def machine() -> dict[str, str | int]:
    """Name processor, accelerator, threads, versions and the date."""
    facts: dict[str, str | int] = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "headrace": headrace.__version__,
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "python": platform.python_version(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
    }
    if torch.accelerator.is_available():
        facts["accelerator"] = accelerator_name()
    return facts


def place(machine: Mapping[str, Any], device: object) -> dict[str, Any]:
    """Say what of a machine and a device must stay the same for figures to stand side by side."""
    return {"device": str(device), **{key: machine.get(key) for key in (*SAME, "threads")}}


def hardware(machine: Mapping[str, Any]) -> str:
    """Name processor and accelerator for a caption."""
    return ", ".join(str(machine[key]) for key in ("cpu", "accelerator") if key in machine)


def accelerator_name() -> str:
    """The accelerator's kind and, where it tells, its name: ``cuda, NVIDIA H100 80GB HBM3``."""
    kind = torch.accelerator.current_accelerator()
    tell = getattr(torch.get_device_module(kind), "get_device_name", None)
    return str(kind) if tell is None else f"{kind}, {tell()}"


def _cpu() -> str:
    """The processor's name and number type units."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
