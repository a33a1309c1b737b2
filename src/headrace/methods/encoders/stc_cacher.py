"""STC-Cacher: reuse the tower's work on patches that did not change.

Paper: Streaming Token Compression (arXiv 2512.00891, CVPR 2026). Original: lern-to-write/STC (no licence).

Every ``refresh_interval`` steps a frame passes the tower in full and leaves, per layer, its keys, its values and what
attention and MLP added to each patch: the reference. On the steps between, a layer computes fresh keys for all patches,
compares them with the reference, and works only on the patches whose keys moved most; all others take what the
reference added, on top of their own current input.

Ours differs: what attention and MLP added is kept as one sum, so an unchanged patch costs one addition; state belongs
to the stream; a step without a reference, or with another grid, always refreshes. ``selection="shared"`` lets the first
layer choose for all.

Shapes: F frames, N patches, U selected patches, D tower width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from headrace.ops.selective import METRICS, Chosen, choose
from headrace.protocols import Backbone, Card, Method, VisionBlock
from headrace.types import Frame, ModelSpec, VisualTokens

SELECTIONS = ("per_layer", "shared")
Choose = Callable[[Tensor, Tensor], Chosen]
REFRESH = "refresh"  # the kind of step that runs every patch


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What one layer did to the last frame of a refresh: keys, values, and what it added, (N, D) each."""

    keys: Tensor
    values: Tensor
    added: Tensor

    def fork(self) -> Reference:
        """Return itself: a refresh makes a new one, nothing changes this."""
        return self


@dataclass(slots=True)
class CacherState:
    """Steps so far, a reference per layer (none before the first refresh), and what the last step computed.

    ``rows`` are the (L, F, U) int64 patches of the last step, None after a full pass; ``grid`` is the reference's.
    """

    step: int
    layers: tuple[Reference, ...]
    rows: Tensor | None = None
    grid: tuple[int, int] = (0, 0)


def refresh(block: VisionBlock, h: Tensor) -> tuple[Tensor, Reference]:
    """Run a layer in full: (F, N, D) in and out, and the last frame's reference."""
    x = block.norm1(h)
    k = block.keys(x)
    q, v = block.queries_values(x)
    attended = block.out(block.attend(q, k, v))
    mixed = block.mlp(block.norm2(h + attended))
    return h + attended + mixed, Reference(_own(k[-1]), _own(v[-1]), attended[-1] + mixed[-1])


def _own(x: Tensor) -> Tensor:
    """Copy a tensor if it holds on to more memory than its own."""
    return x if x.untyped_storage().nbytes() == x.nbytes else x.clone()


def reuse(
    block: VisionBlock, h: Tensor, reference: Reference, chosen: Chosen | None, choose: Choose
) -> tuple[Tensor, Chosen]:
    """Run a layer on the patches that changed.

    Args:
        block: The layer.
        h: (F, N, D) its input.
        reference: The layer's reference.
        chosen: (F, U) patches chosen by an earlier layer, or None to choose here.
        choose: How: from (F, N, D) fresh keys and the reference's (N, D).

    Returns:
        (F, N, D) output and the patches that were computed.
    """
    x = block.norm1(h)
    k = block.keys(x)
    if chosen is None:
        chosen = choose(k, reference.keys)
    x, picked = chosen.pick(x, h)
    q, fresh = block.queries_values(x, chosen.rows)
    v = chosen.put(reference.values, fresh)
    picked = picked + block.out(block.attend(q, k, v, chosen.rows))
    return chosen.settle(h, reference.added, picked, block.mlp(block.norm2(picked))), chosen


@dataclass(frozen=True, kw_only=True)
class StcCacher(Method):
    """Reuse tower features of patches whose keys did not move."""

    refresh_interval: int = 2  # steps from one full pass to the next
    update_ratio: float = 0.25  # share of patches computed on the steps between, 0 < ratio <= 1
    metric: str = "cosine"  # how keys are compared: cosine, l1, l2, dot
    selection: str = "per_layer"  # per_layer: as published; shared: the first layer chooses for all
    fused: bool = False  # on a GPU that runs Triton, choose and move patches by one kernel each; speed only

    card: ClassVar[Card] = Card(
        "STC-Cacher",
        paper="https://arxiv.org/abs/2512.00891",
        licence="none",
        differs="one cached sum per patch instead of two outputs; refreshes whenever there is no reference",
    )
    tunable: ClassVar[frozenset[str]] = frozenset({"refresh_interval", "update_ratio", "metric", "selection"})
    effort: ClassVar[dict[str, tuple[float, float]]] = {"update_ratio": (0.05, 1.0), "refresh_interval": (64, 1)}
    shorthand: ClassVar[str] = "update_ratio"

    def __post_init__(self) -> None:
        if self.refresh_interval < 1:
            raise ValueError(f"refresh_interval: must be at least 1 step, not {self.refresh_interval}")
        if not 0 < self.update_ratio <= 1:
            raise ValueError(f"update_ratio: must be above 0 and at most 1, not {self.update_ratio}")
        if self.metric not in METRICS:
            raise ValueError(f"metric: {self.metric!r} is unknown; known: {', '.join(METRICS)}")
        if self.selection not in SELECTIONS:
            raise ValueError(f"selection: {self.selection!r} is unknown; known: {', '.join(SELECTIONS)}")

    def init(self, spec: ModelSpec) -> CacherState:
        """No reference yet."""
        return CacherState(0, ())

    def step(self, state: CacherState, frames: Sequence[Frame], backbone: Backbone) -> tuple[CacherState, VisualTokens]:
        """Refresh when it is time, reuse otherwise."""
        h, layers, computed = backbone.patches(backbone.pixels(frames)), state.layers, None
        grid, known = (h.shape[1], *backbone.spec.patch_grid), layers and (len(layers[0].keys), *state.grid)
        if self.next_kind(state) == REFRESH or grid != known:
            h, layers, *tapped = self._refresh(h, backbone)
        else:
            h, computed, *tapped = self._reuse(h, layers, backbone)
        state = CacherState(state.step + 1, layers, computed, backbone.spec.patch_grid)
        return state, backbone.project(h, frames, tapped)

    def _refresh(self, h: Tensor, backbone: Backbone) -> tuple[Any, ...]:
        """Pass (F, N, D) through all layers in full.

        Returns:
            The last layer's output, a reference per layer, and the outputs of the layers ``spec.taps``.
        """
        blocks, taps = backbone.blocks(), backbone.spec.taps

        def work(h: Tensor) -> list[Tensor]:
            parts, tapped = [], []
            for index, block in enumerate(blocks):
                h, reference = refresh(block, h)
                parts += [reference.keys, reference.values, reference.added]
                tapped.extend([h] if index in taps else [])
            return [h, *parts, *tapped]

        h, *found = backbone.repeat("stc_cacher refresh", work, (h,))
        layers = tuple(Reference(*found[3 * index : 3 * index + 3]) for index in range(len(blocks)))
        return h, layers, *found[3 * len(blocks) :]

    def _reuse(self, h: Tensor, layers: Sequence[Reference], backbone: Backbone) -> Sequence[Tensor]:
        """Pass (F, N, D) through all layers on the patches that changed.

        Returns:
            The last layer's output, the (L, F, U) patches computed, and the outputs of the layers ``spec.taps``.
        """
        num_patches, blocks, taps = h.shape[1], backbone.blocks(), backbone.spec.taps
        num = min(max(int(num_patches * self.update_ratio), 1), num_patches)
        by_keys = partial(choose, num=num, metric=self.metric, fused=self.fused)

        def work(h: Tensor, *parts: Tensor) -> list[Tensor]:
            known, worked, tapped = None, [], []
            for index, block in enumerate(blocks):
                reference = Reference(*parts[3 * index : 3 * index + 3])
                h, chosen = reuse(block, h, reference, known, by_keys)
                known = chosen if self.selection == "shared" else None
                worked.append(chosen.rows)
                tapped.extend([h] if index in taps else [])
            return [h, torch.stack(worked), *tapped]

        parts = [part for layer in layers for part in (layer.keys, layer.values, layer.added)]
        return backbone.repeat(("stc_cacher reuse", num, self.metric, self.selection, self.fused), work, (h, *parts))

    def next_kind(self, state: CacherState) -> str:
        """Say whether the next step refreshes or reuses; a change of the picture's size makes it refresh, too."""
        return REFRESH if not state.layers or state.step % self.refresh_interval == 0 else "reuse"

    def updated(self, state: CacherState, num_frames: int) -> Tensor:
        """Patches that the last step computed, (L, F, N) bool; see ``protocols.SelectiveEncoder``."""
        keys = state.layers[0].keys
        shape = (len(state.layers), num_frames, keys.shape[0])
        if state.rows is None:
            return torch.ones(shape, dtype=torch.bool, device=keys.device)
        return torch.zeros(shape, dtype=torch.bool, device=keys.device).scatter_(2, state.rows, True)
