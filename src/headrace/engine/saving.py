"""Write a stream to a folder and read it back.

``state-*.safetensors`` holds the tensors, ``stream.json`` everything else and the checksums of both. The manifest is
renamed into place last, so a folder holds either the old stream or the new one, never half of each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from headrace import registry
from headrace.engine.pipeline import Pipeline
from headrace.engine.state import StreamState, pack, unpack
from headrace.types import ModelSpec

FORMAT = 1
MANIFEST = "stream.json"


class SavedStreamError(ValueError):
    """A saved stream that cannot be used; one line that names the file and says what is wrong."""


def save(folder: Path, pipeline: Pipeline, state: StreamState, spec: ModelSpec) -> None:
    """Write a stream; replaces the one the folder holds.

    Args:
        folder: Made if it is missing.
        pipeline: What runs.
        state: The state.
        spec: The model, of which name and fingerprint are kept.

    Raises:
        SavedStreamError: The folder cannot be written to.
    """
    tensors: dict[str, Tensor] = {}
    tree = pack(state, tensors)
    data = save_tensors(tensors)
    checksum = hashlib.sha256(data).hexdigest()
    name = f"state-{checksum[:16]}.safetensors"
    stream = {
        "model": {"name": spec.name, "fingerprint": spec.fingerprint},
        "pipeline": _describe(pipeline),
        "tensors": {"file": name, "sha256": checksum},
        "state": tree,
    }
    manifest = {"format": FORMAT, "sha256": _checksum(stream), "stream": stream}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / name, data)
        _write(folder / MANIFEST, json.dumps(manifest).encode())
        for old in folder.glob("state-*.safetensors*"):
            if old.name != name:
                old.unlink()
    except OSError as error:
        raise SavedStreamError(f"{folder}: cannot be written to ({error.strerror})") from None


def load(folder: Path, spec: ModelSpec) -> tuple[Pipeline, StreamState]:
    """Read a stream back.

    Raises:
        SavedStreamError: The folder holds none, a file is damaged, or it belongs to another model or format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise SavedStreamError(f"{folder}: holds no {MANIFEST}; give a folder that a stream was saved to")
    stream = _read(path)
    if stream["model"]["fingerprint"] != spec.fingerprint:
        raise SavedStreamError(
            f"{path}: was saved with the model {stream['model']['name']!r}, not with the weights of {spec.name!r}"
        )
    file, checksum = stream["tensors"]["file"], stream["tensors"]["sha256"]
    try:
        data = (folder / file).read_bytes()
    except OSError as error:
        raise SavedStreamError(f"{folder / file}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != checksum:
        raise SavedStreamError(f"{folder / file}: is damaged, its checksum does not match {MANIFEST}")
    try:
        state = unpack(stream["state"], load_tensors(data), spec)
        methods = {
            role: registry.build(name, **values) for role, (name, values) in stream["pipeline"]["methods"].items()
        }
        pipeline = Pipeline(**methods, chunk_frames=stream["pipeline"]["chunk_frames"])
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise SavedStreamError(f"{path}: cannot be used ({error})") from None
    return pipeline, state


def _read(path: Path) -> dict[str, Any]:
    """Read a manifest and check that it is whole."""
    try:
        manifest = json.loads(path.read_bytes())
        version = manifest["format"]
        if version == FORMAT:
            stream: dict[str, Any] = manifest["stream"]
            if _checksum(stream) == manifest["sha256"]:
                return stream
            raise ValueError("its checksum does not match")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SavedStreamError(f"{path}: is damaged ({error})") from None
    raise SavedStreamError(f"{path}: has format {version!r}; this version reads format {FORMAT}")


def _checksum(stream: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(stream).encode()).hexdigest()


def _describe(pipeline: Pipeline) -> dict[str, Any]:
    methods = {
        role: (registry.name_of(method), {f.name: getattr(method, f.name) for f in dataclasses.fields(method)})
        for role, method in pipeline.methods().items()
    }
    return {"methods": methods, "chunk_frames": pipeline.chunk_frames}


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, even after a power cut."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
