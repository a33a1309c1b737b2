"""The engine: one set of weights, any number of streams."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from headrace import backbones, registry
from headrace.cache import Disk
from headrace.engine import saving
from headrace.engine.folder import Folder
from headrace.engine.modes import own_modes
from headrace.engine.pipeline import Pipeline
from headrace.engine.stream import Stream
from headrace.protocols import Backbone
from headrace.types import View

NANO = "nano"
_LOADING = threading.Lock()  # transformers sets torch's default number type meanwhile, and puts back what it found

_log = logging.getLogger("headrace.engine")


class Engine:
    """Serves streams with one model. Weights are only read, so streams may run in different threads.

    Args:
        backbone: The model.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def looking(self, view: View) -> Backbone:
        """The model as a stream with this view looks through it.

        Raises:
            ValueError: The view has something the model cannot do.
        """
        return self.backbone if view == self.backbone.view else self.backbone.at(view)

    def open(
        self,
        pipeline: str | Pipeline = "dense",
        *,
        settings: Iterable[str] | str = (),
        chunk_frames: int | None = None,
        memory_mb: float | None = None,
        max_pixels: int | None = None,
        prompt: str = "trained",
        disk: str | Path | None = None,
        disk_mb: float | None = None,
        watch: Iterable[str] | str = (),
    ) -> Stream:
        """Open a stream.

        Args:
            pipeline: A Pipeline, or its text such as ``dense``, ``recent:4``, ``streamingllm:2048+uniform:0.3``.
            settings: ``role.field=value`` texts (or one), for a pipeline given as text.
            chunk_frames: Frames per step, for a pipeline given as text; default 1.
            memory_mb: Most the stream's past may take, in MiB; None for no limit.
            max_pixels: Most pixels of a frame as the tower sees it, for models that take any size; the first frame's
                shape then fixes the size of all.
            prompt: ``trained`` writes prompts and positions as the model's authors did, ``library`` as transformers
                does, where the two differ.
            disk: Scratch folder for blocks beyond the memory's ``ram_blocks``; what is in it goes with the stream.
            disk_mb: Most MiB of the stream in that folder, None for no limit; beyond it the least useful blocks go.
            watch: Standing instructions (or one) that hold from the first frame on; see ``Stream.watch``.

        Raises:
            ValueError: The pipeline, a setting, a budget, the folder, the prompt or an instruction is wrong.
        """
        if isinstance(pipeline, str):
            settings = (settings,) if isinstance(settings, str) else settings
            frames = 1 if chunk_frames is None else chunk_frames
            pipeline = Pipeline.parse(pipeline, settings, chunk_frames=frames)
        elif settings or chunk_frames is not None:
            raise ValueError("pipeline: is a Pipeline and has its settings and chunk_frames; leave them out beside it")
        view = View(max_pixels=max_pixels, prompt=prompt)
        stream = Stream(self, pipeline, budget_bytes=_bytes(memory_mb), view=view)
        if disk is not None:
            _check_tiers(pipeline.memory)
        _house(stream, disk, disk_mb)
        for text in (watch,) if isinstance(watch, str) else watch:
            stream.watch(text)
        return stream

    def resume(
        self,
        folder: str | Path,
        *,
        memory_mb: float | None = None,
        disk: str | Path | None = None,
        disk_mb: float | None = None,
    ) -> Stream:
        """Go on with a saved stream, exactly where it was; for the arguments see ``open``.

        Raises:
            SavedStreamError: The folder holds no stream of this model, or a file is damaged.
            ValueError: The budget or the folder is wrong.
        """
        budget_bytes = _bytes(memory_mb)
        known = Folder(Path(folder).absolute())
        with own_modes(self.backbone.spec.device):
            pipeline, state = saving.load(known.path, lambda view: self.looking(view).spec, into=known)
        stream = Stream(self, pipeline, budget_bytes=budget_bytes, state=state, folder=known)
        _house(stream, disk, disk_mb)
        held = getattr(pipeline.memory, "ram_blocks", None)
        if disk is None and held is not None and (num := len(state.memory.shelf)) > held:
            left = f"of {num} blocks memory.ram_blocks keeps {held} from the next frame on"
            _log.warning("%s: %s; give a disk for the others", folder, left)
        return stream


def load(
    model: str = NANO,
    *,
    revision: str | None = None,
    offline: bool = False,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    weights: str = "full",
) -> Engine:
    """Load a model and make an engine of it.

    Args:
        model: ``nano`` (embedded), a hub name, or a folder in transformers' layout.
        revision: Branch, tag or commit on the hub.
        offline: Use only what is on this machine.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``. Auto is bf16 on an accelerator and on processors with
            bf16 matrix units, fp32 elsewhere and for ``nano``.
        device: ``auto``, or a torch device. Auto takes an accelerator if there is one.
        weights: ``full``, or ``int8``: the decoder's matrices as int8, for small machines.

    Raises:
        ValueError: A name is wrong, or the model cannot be loaded.
    """
    place = choose_device(device)
    name = str(Path(__file__).parents[1] / "weights" / NANO) if model == NANO else model
    kind = choose_dtype(dtype, place, model)
    with _LOADING, own_modes(place):
        found = backbones.load(name, revision=revision, offline=offline, dtype=kind, device=place, weights=weights)
    return Engine(found)


def _check_tiers(memory: Any) -> None:
    """Refuse a disk to which no block would go."""
    ram_blocks, most = getattr(memory, "ram_blocks", None), getattr(memory, "max_blocks", None)
    if ram_blocks is not None and most is not None and ram_blocks >= most:
        raise ValueError(
            f"disk: {registry.name_of(memory)} keeps {most} blocks in all (memory.max_blocks), so none goes beyond"
            f" memory.ram_blocks={ram_blocks}; raise the one or lower the other"
        )


def _house(stream: Stream, folder: str | Path | None, disk_mb: float | None) -> None:
    """Give a stream a folder for blocks that do not fit in memory."""
    limit_bytes = _bytes(disk_mb, "disk_mb")
    if folder is None and disk_mb is not None:
        raise ValueError("disk_mb: limits the folder given as disk, and none is given")
    if folder is not None:
        stream.house(Disk(folder, limit_bytes=limit_bytes))


def _bytes(size_mb: float | None, name: str = "memory_mb") -> int | None:
    if size_mb is None:
        return None
    if not 0 < size_mb < float("inf"):
        raise ValueError(f"{name}: must be above 0, not {size_mb}")
    return int(size_mb * 2**20)


def choose_device(device: str | torch.device) -> torch.device:
    """Turn ``auto`` or a name into a device.

    Raises:
        ValueError: It cannot be used here.
    """
    if device == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device("cpu") if found is None else found
    try:
        place = torch.device(device)
        torch.zeros(1, dtype=torch.float32, device=place).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {device!r} cannot be used here ({str(error).splitlines()[0]})") from None
    return place


def choose_dtype(dtype: str | torch.dtype, place: torch.device, model: str) -> torch.dtype:
    """Turn ``auto`` or a name into a number type.

    Raises:
        ValueError: The name is unknown.
    """
    if dtype == "auto":
        fast = place.type != "cpu" or fast_bf16()
        return torch.bfloat16 if fast and model != NANO else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known and dtype not in known.values():
        raise ValueError(f"dtype: {dtype!r} is unknown; known: auto, {', '.join(known)}")
    return dtype if isinstance(dtype, torch.dtype) else known[dtype]


def fast_bf16() -> bool:
    """True where this processor multiplies bf16 matrices in hardware."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
