"""Naive twin of ``stc_cacher``: one frame, one layer, one patch at a time, as the paper's steps say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from headrace.types import Frame, VisualTokens

VARIANTS: list[dict[str, Any]] = [
    {},
    {"refresh_interval": 3, "update_ratio": 0.5},
    {"metric": "l1", "update_ratio": 0.3},
    {"metric": "l2", "update_ratio": 0.01},
    {"metric": "dot", "refresh_interval": 4},
    {"selection": "shared", "refresh_interval": 3, "update_ratio": 0.4},
]
OUTSIDE = {"fused": "unit/test_kernels.py"}
IDENTITY: list[dict[str, Any]] = [{"update_ratio": 1.0}, {"refresh_interval": 1}]
REJECTS: dict[str, list[Any]] = {
    "refresh_interval": [0, -1],
    "update_ratio": [0.0, -0.25, 1.01, float("nan")],
    "metric": ["cosin", ""],
    "selection": ["all"],
}
TUNED: dict[str, list[Any]] = {
    "refresh_interval": [1, 5, 2],
    "update_ratio": [1.0, 0.1, 0.5],
    "metric": ["l1", "dot", "l2", "cosine"],
    "selection": ["shared", "per_layer", "shared"],
}


def likeness(a: Tensor, b: Tensor, metric: str) -> list[float]:
    """How alike the keys of each patch are; distances count negatively.

    In fp32 on whole tensors, unlike the rest: unchanged patches are equal up to rounding, and which of them is chosen
    hangs on the last bit.
    """
    if metric == "cosine":
        return torch.cosine_similarity(a, b, dim=-1).tolist()
    if metric == "dot":
        return (a * b).sum(-1).tolist()
    return (-torch.linalg.vector_norm(a - b, ord={"l1": 1, "l2": 2}[metric], dim=-1)).tolist()


def twin(method: Any, backbone: Any, steps: Sequence[Sequence[Frame]]) -> list[list[VisualTokens]]:
    """Tokens of every step."""
    return [[tokens] for tokens, _ in _steps(method, backbone, steps)]


def updated(method: Any, backbone: Any, steps: Sequence[Sequence[Frame]]) -> list[list[list[set[int]]]]:
    """Patches that every step computed, per layer and frame."""
    return [worked for _, worked in _steps(method, backbone, steps)]


def _steps(method: Any, backbone: Any, steps: Sequence[Sequence[Frame]]) -> Iterator[tuple[VisualTokens, Any]]:
    """Tokens of every step, and the patches it computed per layer and frame."""
    references = None
    for number, frames in enumerate(steps):
        h, worked = backbone.patches(backbone.pixels(frames)), []
        if references is None or number % method.refresh_interval == 0:
            worked = [[set(range(h.shape[1]))] * len(h)] * len(backbone.blocks())
            outputs, references = _full(backbone, h)
        else:
            alone = [_selective(method, backbone, frame, references) for frame in h]
            outputs = [torch.stack(layer) for layer in zip(*(out for out, _ in alone), strict=True)]
            worked = [list(layer) for layer in zip(*(rows for _, rows in alone), strict=True)]
        yield backbone.project(outputs[-1], frames, [outputs[i] for i in backbone.spec.taps]), worked


def _full(backbone: Any, h: Tensor) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Every layer's output; what each did to the last frame."""
    outputs, references = [], []
    for block in backbone.blocks():
        x = block.norm1(h)
        k, (q, v) = block.keys(x), block.queries_values(x)
        attended = block.out(block.attend(q, k, v))
        h = h + attended
        mixed = block.mlp(block.norm2(h))
        h = h + mixed
        outputs.append(h)
        references.append({"k": k[-1], "v": v[-1], "attended": attended[-1], "mixed": mixed[-1]})
    return outputs, references


def _selective(
    method: Any, backbone: Any, h: Tensor, references: list[dict[str, Tensor]]
) -> tuple[list[Tensor], list[set[int]]]:
    """One frame (N, D) through layers that work on some patches only: every layer's output, and which those were."""
    num, worked, outputs = max(1, int(len(h) * method.update_ratio)), [], []
    shared: list[int] | None = None
    for block, reference in zip(backbone.blocks(), references, strict=True):
        x = block.norm1(h[None])
        k = block.keys(x)
        alike = likeness(k[0], reference["k"], method.metric)
        rows = sorted(range(len(h)), key=lambda i: alike[i])[:num]
        if method.selection == "shared":
            rows = shared = rows if shared is None else shared
        worked.append(set(rows))
        v, attended = reference["v"].clone(), reference["attended"].clone()
        for row in rows:
            v[row] = block.queries_values(x[:, row : row + 1], torch.tensor([[row]]))[1][0, 0]
        for row in rows:
            which = torch.tensor([[row]])
            q = block.queries_values(x[:, row : row + 1], which)[0]
            attended[row] = block.out(block.attend(q, k, v[None], which))[0, 0]
        h, mixed = h + attended, reference["mixed"].clone()
        for row in rows:
            mixed[row] = block.mlp(block.norm2(h[None, row : row + 1]))[0, 0]
        h = h + mixed
        outputs.append(h)
    return outputs, worked


@dataclass
class Tower:
    """A published tower as an encoder sees a backbone; frames are (3, H, W) pixels, and what comes out stays hidden."""

    model: Any
    layers: list[Any]
    spec: Any

    def pixels(self, frames: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(frames))

    def patches(self, pixels: Tensor) -> Tensor:
        return self.model.embeddings(pixels)

    def blocks(self) -> list[Any]:
        return self.layers

    def repeat(self, key: Any, work: Any, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return work(*inputs)

    def project(self, h: Tensor, frames: Sequence[Tensor], tapped: Sequence[Tensor]) -> Tensor:
        return h


def golden(tensors: dict[str, Tensor], settings: dict[str, str]) -> str:
    """Compare with the published tower: hidden states, dense and selective."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from headrace.backbones.tower import SiglipBlock, run_tower
    from headrace.methods.encoders.stc_cacher import StcCacher
    from reference.golden import close

    config = SiglipVisionConfig(**json.loads(settings["config"]))
    model = SiglipVisionModel(config).eval()
    model.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
    side = config.image_size // config.patch_size
    spec = SimpleNamespace(taps=(), patch_grid=(side, side))
    tower: Any = Tower(model, [SiglipBlock(layer) for layer in model.encoder.layers], spec)
    ratio = min(max(float(settings["update_ratio"]), 1e-9), 1.0)  # the published code clamps the number of patches
    chosen: Any = {key: settings[key] for key in ("metric", "selection") if key in settings}
    method = StcCacher(refresh_interval=int(settings["refresh_interval"]), update_ratio=ratio, **chosen)
    dense, found, state = [], [], method.init(tower.spec)
    with torch.no_grad():
        for pixels in tensors["pixel_values"].split(int(settings["chunk_frames"])):
            dense.append(run_tower(tower.blocks(), tower.patches(pixels))[0])
            state, hidden = method.step(state, list(pixels), tower)
            found.append(hidden)
    parts = [
        close("full.hidden", torch.cat(dense), tensors["full.hidden"]),
        close("cacher.hidden", torch.cat(found), tensors["cacher.hidden"]),
    ]
    return ", ".join(parts)
