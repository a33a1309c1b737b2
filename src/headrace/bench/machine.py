"""Where a figure was measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from pathlib import Path

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
        facts["accelerator"] = str(torch.accelerator.current_accelerator())
    return facts


def _cpu() -> str:
    """The processor's name and number type units."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
