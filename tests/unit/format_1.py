"""Saves a stream the way it was done before rows had files of their own, to see that such folders still load."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

from safetensors.torch import save
from torch import Tensor

from headrace.cache import KVCache
from headrace.cache.table import RowTable
from headrace.engine import Stream
from headrace.engine.folder import checksum_of
from headrace.engine.saving import snapshot
from headrace.engine.state import pack

COLUMNS = ("kind", "frame", "time_s", "turn", "ids")


def save_as_format_1(stream: Stream, folder: Path) -> None:
    """Write one file of tensors and a manifest that names it."""
    tensors: dict[str, Tensor] = {}
    with patch.object(KVCache, "pack", _cache), patch.object(RowTable, "pack", _table):
        tree = pack(stream.state, tensors)
    data = save(tensors)
    checksum = hashlib.sha256(data).hexdigest()
    file = f"state-{checksum[:16]}.safetensors"
    new = snapshot(stream.pipeline, stream.state, stream.spec).stream
    old = {**new, "tensors": {"file": file, "sha256": checksum}, "state": tree}
    folder.mkdir(parents=True)
    (folder / file).write_bytes(data)
    (folder / "stream.json").write_text(json.dumps({"format": 1, "sha256": checksum_of(old), "stream": old}))


def _cache(cache: KVCache) -> dict[str, Any]:
    layers = []
    for layer in range(cache.spec.layers):
        packed = []
        for run in cache.runs(layer):
            parts = {"keys": run.keys.clone(), "values": run.values.clone(), "rows": run.rows.clone()}
            if run.block.rotated is not None:
                parts["rotated"] = run.rotated.clone()
            packed.append({"start": run.start, "capacity": run.block.capacity, **parts})
        layers.append(tuple(packed))
    return {"block_rows": cache.block_rows, "table": cache.table.pack(), "layers": tuple(layers)}


def _table(table: RowTable) -> dict[str, Any]:
    view = table.view()
    columns = {name: view.column(name).clone() for name in COLUMNS} if table.stop > table.first else {}
    return {"columns": columns, "first": table.first, "stop": table.stop}
