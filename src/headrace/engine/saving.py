"""Take a snapshot of a stream for a folder, and read a stream back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from headrace import registry
from headrace.cache import Written
from headrace.engine.folder import FORMAT, MANIFEST, File, Folder, Place, SavedStreamError, Snapshot, checksum_of
from headrace.engine.pipeline import Pipeline
from headrace.engine.state import StreamState, pack, unpack
from headrace.types import ModelSpec, View

__all__ = ["MANIFEST", "SavedStreamError", "Snapshot", "load", "snapshot"]

TRIES = 10
# Format 1 had one file of tensors; fingerprints of 1 and 2 saw few of the weights; 3 did not know what had been said.
READS = (1, 2, 3, FORMAT)


def snapshot(pipeline: Pipeline, state: StreamState, spec: ModelSpec) -> Snapshot:
    """Take down a stream as it is now: small tensors are copied, rows that never change again are not.

    Args:
        pipeline: What runs.
        state: The state.
        spec: The model, of which name and fingerprint are kept.
    """
    tensors: dict[str, Tensor] = {}
    written: list[Written] = []
    tree = pack(state, tensors, written)
    model = {"name": spec.name, "fingerprint": spec.fingerprint, "dtype": str(spec.dtype).removeprefix("torch.")}
    return Snapshot({"model": model, "pipeline": _describe(pipeline), "state": tree}, tensors, written)


def load(path: Path, look: Callable[[View], ModelSpec], *, into: Folder | None = None) -> tuple[Pipeline, StreamState]:
    """Read a stream back; again where somebody saves to the folder meanwhile, whose files go.

    Args:
        path: Where it was saved.
        look: From a view to the model as seen through it.
        into: The folder of this path; takes note of what of the state it holds, so that it is not written again.

    Returns:
        What runs, and its state.

    Raises:
        SavedStreamError: The folder holds none, a file is damaged, or it belongs to another model or format.
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise SavedStreamError(f"{path}: holds no {MANIFEST}; give a folder that a stream was saved to")
    for _ in range(TRIES):
        written = manifest.stat().st_mtime_ns
        try:
            return _load(path, look, into or Folder(path))
        except SavedStreamError:
            if manifest.stat().st_mtime_ns == written:
                raise
    raise SavedStreamError(f"{path}: is being written to all the time; give a folder that nobody saves to")


def _load(path: Path, look: Callable[[View], ModelSpec], folder: Folder) -> tuple[Pipeline, StreamState]:
    manifest = path / MANIFEST
    stream, spec = _read(manifest), look(View())
    if stream["model"]["fingerprint"] not in (spec.fingerprint, spec.former_fingerprint):
        dtype, saved = str(spec.dtype).removeprefix("torch."), stream["model"].get("dtype")
        if saved not in (None, dtype):
            raise SavedStreamError(f"{manifest}: was saved in {saved}, this model is in {dtype}; load it in {saved}")
        raise SavedStreamError(
            f"{manifest}: was saved with the model {stream['model']['name']!r}, not with the weights of {spec.name!r}"
        )
    try:
        files = {name: _tensors(path / name, checksum, folder) for name, checksum in stream["files"].items()}
        shelves = {name: _by_key(tensors) for name, tensors in files.items() if name != stream["tensors"]}
        written = [Written(shelves[file][key], first) for file, key, first in stream["written"]]
        places = [
            Place(file, key, first, rows.num_bytes())
            for (file, key, first), rows in zip(stream["written"], written, strict=True)
        ]
        view = unpack(stream["state"]["fields"].get("view"), {}, spec)
        state = unpack(stream["state"], files[stream["tensors"]], look(view or View()), written)
        methods = {
            role: registry.build(name, **values) for role, (name, values) in stream["pipeline"]["methods"].items()
        }
        pipeline = Pipeline(**methods, chunk_frames=stream["pipeline"]["chunk_frames"])
    except SavedStreamError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, SafetensorError) as error:
        raise SavedStreamError(f"{manifest}: cannot be used ({error})") from None
    for rows, place in zip(written, places, strict=True):
        if rows.owner is not None:
            folder.knows(rows.owner, place)
    return pipeline, state


def _tensors(path: Path, checksum: str, folder: Folder) -> dict[str, Tensor]:
    """Read a file of tensors whose bytes have this checksum."""
    if path.parent != folder.path:
        raise ValueError(f"{path.name!r} is no file of this folder")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SavedStreamError(f"{path}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != checksum:
        raise SavedStreamError(f"{path}: is damaged, its checksum does not match {MANIFEST}")
    tensors: dict[str, Tensor] = load_tensors(data)
    folder.has(path.name, File(checksum, len(data), sum(x.numel() * x.itemsize for x in tensors.values())))
    return tensors


def _by_key(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Sort the tensors of a file of rows by whose they are; empties ``tensors``."""
    found: dict[str, dict[str, Tensor]] = {}
    while tensors:
        name, tensor = tensors.popitem()
        key, _, part = name.partition(".")
        found.setdefault(key, {})[part] = tensor
    return found


def _read(path: Path) -> dict[str, Any]:
    """Read a manifest and check that it is whole; one of an older format is brought to the present one."""
    try:
        manifest = json.loads(path.read_bytes())
        version = manifest["format"]
        if version in READS and type(version) is int:
            stream: dict[str, Any] = manifest["stream"]
            if checksum_of(stream) != manifest["sha256"]:
                raise ValueError("its checksum does not match")
            if version == 1:
                only = stream["tensors"]
                stream |= {"files": {only["file"]: only["sha256"]}, "tensors": only["file"], "written": []}
            return stream
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SavedStreamError(f"{path}: is damaged ({error})") from None
    newer = " of a newer headrace" if type(version) is int and version > FORMAT else ""
    raise SavedStreamError(f"{path}: has format {version!r}{newer}; this version reads formats 1 to {FORMAT}")


def _describe(pipeline: Pipeline) -> dict[str, Any]:
    methods = {
        role: (registry.name_of(method), {f.name: getattr(method, f.name) for f in dataclasses.fields(method)})
        for role, method in pipeline.methods().items()
    }
    return {"methods": methods, "chunk_frames": pipeline.chunk_frames}
