"""Memory: what a bench will need, what is free, and the most that was used."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import torch

from headrace.backbones import adopt, plain
from headrace.types import ModelSpec

STATUS = Path("/proc/self/status")
SPARE_BYTES = 3 << 29  # for activations, the interpreter and the factors of floors
MEMINFO, LIMIT, USED = (
    Path("/proc/meminfo"),
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory.current"),
)


def sized(config: Any, dtype: torch.dtype) -> tuple[ModelSpec, int]:
    """A model's spec and the bytes of its weights, without making them.

    Args:
        config: A configuration of any family.
        dtype: Type of weights, keys and values.
    """
    model = plain.build_large(config, dtype=dtype, device=torch.device("meta"))
    weights = sum(param.numel() for param in model.parameters()) * dtype.itemsize
    return adopt(model, plain.word_tokenizer([], config.model_type), name="sized").spec, weights


def needed_bytes(config: Any, dtype: torch.dtype, steps: int, chunk_frames: int = 1) -> int:
    """Estimate what a latency bench takes: one copy of the weights, the past of three contenders, and some to spare.

    Args:
        config: A configuration of any family.
        dtype: Type of weights, keys and values.
        steps: Steps of a run.
        chunk_frames: Frames of a step; as many more as the tower takes at once.
    """
    spec, weights = sized(config, dtype)
    rows = steps * -(-chunk_frames // spec.frames_per_step) * (spec.grid[0] * spec.grid[1] + spec.around_rows)
    streams = 2 * rows * spec.row_bytes * 3 // 2  # keys, values and rotated keys of each
    return int(weights + streams + rows * spec.row_bytes + SPARE_BYTES)


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device, None where nothing tells."""
    if device.type != "cpu":
        info = getattr(torch.accelerator, "get_memory_info", None)  # torch 2.8 has none
        return None if info is None else int(info(device)[0])
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:  # a container's own limit
        return min(free, int(LIMIT.read_text()) - int(USED.read_text()))
    except (OSError, ValueError):
        return free


def check_room(what: str, needed: int, device: torch.device) -> None:
    """Refuse before the work what would not fit.

    Raises:
        ValueError: It needs more than is free.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise ValueError(
            f"{what} needs about {needed / 2**30:.1f} GiB on {device}, and {free / 2**30:.1f} GiB are free: end other"
            " programs, or take a smaller shape or fewer frames"
        )


def peak_bytes(device: torch.device) -> dict[str, int]:
    """The most memory this process has held: ``resident``, and on an accelerator what its ``allocator`` gave out."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    most = getattr(torch.accelerator, "max_memory_allocated", None)  # torch 2.8 has none
    if device.type != "cpu" and most is not None:
        found["allocator"] = int(most(device))
    return found


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind (RssAnon): what a leak would grow.

    Raises:
        ValueError: The system does not tell.
    """
    try:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon:"))
    except (OSError, StopIteration):
        raise ValueError(f"{STATUS}: does not tell anonymous memory; this needs Linux") from None
    return int(line.split()[1]) * 1024
