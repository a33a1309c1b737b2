"""``headrace doctor``: what is installed, how fast it is, what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import time
from pathlib import Path
from typing import Any

import typer

import headrace
from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.output import Output

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "av", "numpy", "pillow", "typer", "rich")
EXTRAS = {"matplotlib": "curves of training and benchmarks (pip install 'headrace[bench]')"}


@clean
def doctor(context: typer.Context, as_json: options.Json = False) -> None:
    """Report versions, devices, how fast each number type is, and what is missing.

    Example: headrace doctor --json
    """
    import torch

    from headrace.engine.engine import fast_bf16
    from headrace.ops.selective import kernels_on

    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    facts: dict[str, Any] = {
        "headrace": headrace.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **versions,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "bf16 in hardware": fast_bf16(),
    }
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    facts["accelerator"] = "none" if accelerator is None else str(accelerator)
    if accelerator is not None:
        facts["own kernels"] = (
            "do not work" if kernels_on(torch.empty(0, device=accelerator).device) is None else "work"
        )
    for device in ["cpu"] + ([] if accelerator is None else [str(accelerator)]):
        for dtype in (torch.float32, torch.bfloat16):
            facts[f"{device} {str(dtype).removeprefix('torch.')} GFLOP/s"] = round(_speed(device, dtype))
    missing = [f"{name}: {use}" for name, use in EXTRAS.items() if importlib.util.find_spec(name) is None]
    weights = Path(headrace.__file__).parent / "weights" / "nano" / "model.safetensors"
    if not weights.is_file():
        missing.append("nano: the embedded weights are not in this installation; run headrace train nano")
    out.object("doctor", **facts, missing=missing)
    for key, value in facts.items():
        out.line(f"{key:>24}  {value}")
    for line in missing:
        out.line(f"{'missing':>24}  {line}", style="yellow")
    if not missing:
        out.line(f"{'missing':>24}  nothing")


def _speed(device: str, dtype: Any) -> float:
    """Time a square matrix product: GFLOP/s, the best of a few."""
    import torch

    num = 1024 if device == "cpu" else 8192
    a = torch.randn(num, num, device=device).to(dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        b = a @ a
        b[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * num**3 / best / 1e9
