"""STC-Adaptive: the tower works on what changed in the picture, and starts afresh when enough has.

Our own; it grew out of STC-Cacher (arXiv 2512.00891), which refreshes by a clock and then updates a fixed share of the
patches.

Change is measured before the first layer, on patch embeddings: a patch changed when its embedding is farther from the
one it was last computed from than noise of the sensor would put it. What noise does to an embedding is measured once,
on a grey picture. Noise lies on all patches alike, so where even the quieter quarter of the picture differs by more,
the threshold follows it, up to 16 times.

Changed patches and those around them (``halo``: a thing's meaning is spread over all its patches) go through the tower
on their own; they attend to their fresh keys and values and to the kept ones of all others. Nothing is done for the
rest. A quiet picture therefore costs its patch embedding and nothing else.

What others attend to grows old that way. So change adds up: every changed patch counts by how far it moved, 1 for as
far as two patches of a picture lie apart. When this reaches ``drift`` pictures, one full pass starts afresh; after
``max_age`` frames it comes in any case. At a cut it comes at once: things that move leave half of the picture alone, so
it is a cut when the median patch moved much farther than noise would move it and than the median did on the frame
before. That last keeps a camera that pans or shakes, and light that swings, from being a cut on every frame.

Shapes: F frames (temporal steps where the tower takes several at once), N patches in the tower's order, U patches
worked on, D tower width, J layers tapped for deepstack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from headrace.ops.grid import spread
from headrace.protocols import Backbone, Card, Method, VisionBlock
from headrace.types import Frame, ModelSpec, VisualTokens

PROBE = 8.0  # grey levels of the noise whose effect is measured
QUIET, ABOVE_QUIET = 0.25, 3.0  # the threshold is at least so many times the change of the quieter quarter ...
MOST_ABOVE = 16.0  # ... and at most so many times that of noise
CUT = 2.5  # how many times farther than noise and than before the median patch moves at a cut


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """What the tower last computed for every patch; a step makes a new one, nothing changes this.

    Attributes:
        patches: (N, D) embeddings it was computed from.
        outputs: (1+J, N, D) output of the last layer, then of the layers that are tapped.
        layers: Keys and values per layer, (N, D) each.
        age: (N,) int64 frames since then.
        contrast: Mean squared distance of a patch of the last full pass from their mean, places not counted.
        grid: (rows, columns) of the patches.
    """

    patches: Tensor
    outputs: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]
    age: Tensor
    contrast: float
    grid: tuple[int, int] = (0, 0)

    def fork(self) -> Computed:
        """Return itself."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class AdaptiveState:
    """What is known of a stream.

    Attributes:
        computed: What can be used again, None before the first frame.
        grey: (N, D) patch embeddings of a grey picture: what is only place. None before the first frame.
        grain: Squared distance by which noise of one grey level moves a patch embedding.
        drift: Change computed since the last full pass, in pictures.
        median: Squared distance that the median patch had moved on the last frame.
        since: Frames since the last full pass.
        worked: (F, N) bool, the patches that the last step computed.
        spent: Share of a dense tower's work that the last step took.
    """

    computed: Computed | None = None
    grey: Tensor | None = None
    grain: float = 0.0
    drift: float = 0.0
    median: float = 0.0
    since: int = 0
    worked: Tensor | None = None
    spent: float = 0.0


def grey(size: tuple[int, int], amount: float) -> Frame:
    """A grey picture of (height, width) pixels under normal noise of ``amount`` grey levels, always the same."""
    noise = torch.randn(*size, 3, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    return Frame(0, 0.0, (128 + amount * noise).round().clamp(0, 255).to(torch.uint8))


def full_pass(blocks: Sequence[VisionBlock], taps: Sequence[int], x: Tensor) -> list[Tensor]:
    """Run all layers on all patches of a frame.

    Args:
        blocks: The layers.
        taps: Layers whose output is wanted beside the last one's.
        x: (N, D) the patches' embeddings.

    Returns:
        (1+J, N, D) outputs, then every layer's keys and values in turn.
    """
    h, parts, tapped = x[None], [], []
    for index, block in enumerate(blocks):
        normed = block.norm1(h)
        k = block.keys(normed)
        q, v = block.queries_values(normed)
        h = h + block.out(block.attend(q, k, v))
        h = h + block.mlp(block.norm2(h))
        parts += [k[0], v[0]]
        tapped.extend([h] if index in taps else [])
    return [torch.cat([h, *tapped]) if tapped else h, *parts]


def part_pass(
    blocks: Sequence[VisionBlock],
    x: Tensor,
    rows: Tensor,
    layers: Sequence[tuple[Tensor, Tensor]],
    taps: Sequence[int] = (),
) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]]:
    """Run all layers on some patches of a frame, which attend to all.

    Args:
        blocks: The layers.
        x: (U, D) the patches' embeddings.
        rows: (U,) int64 which they are.
        layers: Keys and values of all patches, (N, D) each, per layer.
        taps: Layers whose output is wanted beside the last one's.

    Returns:
        (1+J, U, D) outputs, and the keys and values with those of the patches put in.
    """
    h, fresh, tapped, which = x[None], [], [], rows[None]
    for index, (block, (k, v)) in enumerate(zip(blocks, layers, strict=True)):
        normed = block.norm1(h)
        q, new = block.queries_values(normed, which)
        k, v = k.index_copy(0, rows, block.keys(normed, which)[0]), v.index_copy(0, rows, new[0])
        h = h + block.out(block.attend(q, k[None], v[None], which))
        h = h + block.mlp(block.norm2(h))
        fresh.append((k, v))
        tapped.extend([h] if index in taps else [])
    return torch.cat([h, *tapped]) if tapped else h, tuple(fresh)


@dataclass(frozen=True, kw_only=True)
class StcAdaptive(Method):
    """Compute the patches that changed, everything after enough change."""

    drift: float = 0.4  # change after which a full pass is due, in pictures, > 0
    least: float = 0.0  # share of patches computed at least, unchanged ones by age; 0 to 1
    most: float = 0.4  # share of patches computed at most between two full passes, 0 < most <= 1; goes before least
    noise: float = 6.0  # grey levels at the tower's resolution; what such noise explains is no change, 0 to 255
    halo: int = 1  # patches around a changed one that are computed with it, >= 0
    max_age: int = 64  # frames from one full pass to the next at most, >= 1

    card: ClassVar[Card] = Card("STC-Adaptive")
    tunable: ClassVar[frozenset[str]] = frozenset({"drift", "least", "most", "noise", "halo", "max_age"})
    effort: ClassVar[dict[str, tuple[float, float]]] = {"most": (0.05, 1.0), "drift": (100.0, 0.1)}
    shorthand: ClassVar[str] = "drift"

    def __post_init__(self) -> None:
        if not 0 < self.drift < float("inf"):
            raise ValueError(f"drift: must be above 0 pictures, not {self.drift}")
        if not 0 < self.most <= 1:
            raise ValueError(f"most: must be above 0 and at most 1, not {self.most}")
        if not 0 <= self.least <= 1:
            raise ValueError(f"least: must be from 0 to 1, not {self.least}")
        if not 0 <= self.noise <= 255:
            raise ValueError(f"noise: must be from 0 to 255 grey levels, not {self.noise}")
        if self.halo < 0:
            raise ValueError(f"halo: must be 0 patches or more, not {self.halo}")
        if self.max_age < 1:
            raise ValueError(f"max_age: must be at least 1 frame, not {self.max_age}")

    def init(self, spec: ModelSpec) -> AdaptiveState:
        """Nothing computed yet."""
        return AdaptiveState()

    def step(
        self, state: AdaptiveState, frames: Sequence[Frame], backbone: Backbone
    ) -> tuple[AdaptiveState, VisualTokens]:
        """Take the frames one by one, so that how they are cut into steps changes nothing."""
        px = backbone.pixels(frames)
        outputs, worked, size = [], [], (px.shape[-2], px.shape[-1])
        for x in backbone.patches(px):
            state = self._frame(state, x, backbone, size)
            assert state.computed is not None
            assert state.worked is not None
            outputs.append(state.computed.outputs)
            worked.append(state.worked)
        mask = torch.stack(worked)
        state = replace(state, worked=mask, spent=float(mask.float().mean()))
        h, *tapped = torch.stack(outputs, 1)
        return state, backbone.project(h, frames, tapped)

    def updated(self, state: AdaptiveState, num_frames: int) -> Tensor:
        """Patches that the last step computed, (L, F, N) bool; see ``protocols.SelectiveEncoder``."""
        assert state.computed is not None
        assert state.worked is not None
        return state.worked.expand(len(state.computed.layers), -1, -1)

    def _frame(self, state: AdaptiveState, x: Tensor, backbone: Backbone, size: tuple[int, int]) -> AdaptiveState:
        """Take one frame's (N, D) patch embeddings; ``size`` is that of its pixels."""
        known, since = state.computed, state.since + 1
        if known is None or known.patches.shape != x.shape or known.grid != backbone.spec.patch_grid:
            return self._afresh(state, x, backbone, size)
        moved = (x.float() - known.patches.float()).square().sum(-1)
        noise = 2 * self.noise**2 * state.grain
        quiet, median = moved.quantile(moved.new_tensor((QUIET, 0.5))).tolist()
        changed = moved > max(noise, min(ABOVE_QUIET * quiet, MOST_ABOVE * noise))
        change = torch.where(changed, moved / (2 * known.contrast), 0).clamp(max=1)
        due = since >= self.max_age or state.drift + float(change.mean()) >= self.drift
        if due or median > CUT * max(noise, state.median):
            return replace(self._afresh(state, x, backbone, size), median=median)
        spec = backbone.spec
        near = spread(changed, spec.patch_grid, min(self.halo, max(spec.patch_grid)), order=spec.patch_order)
        rows = self._choose(changed, near, moved, known.age)
        worked = torch.zeros_like(changed).index_fill_(0, rows, value=True)
        age = (known.age + 1).masked_fill(worked, 0)
        if len(rows):
            h, layers = part_pass(backbone.blocks(), x[rows], rows, known.layers, spec.taps)
            patches, outputs = known.patches.index_copy(0, rows, x[rows]), known.outputs.index_copy(1, rows, h)
            known = replace(known, patches=patches, outputs=outputs, layers=layers, age=age)
        else:
            known = replace(known, age=age)
        drift = state.drift + float(change[rows].sum()) / len(x)
        return AdaptiveState(known, state.grey, state.grain, drift, median, since, worked)

    def _choose(self, changed: Tensor, near: Tensor, moved: Tensor, age: Tensor) -> Tensor:
        """Choose what to compute: changed patches, most moved first; those around them; the rest, oldest first.

        Args:
            changed: (N,) bool.
            near: (N,) bool, changed ones and those around them.
            moved: (N,) squared distances.
            age: (N,) int64.

        Returns:
            (U,) int64 ascending.
        """
        num = len(changed)
        wanted = min(max(int(near.sum()), int(self.least * num)), int(self.most * num))
        order = torch.where(changed, moved, age.to(moved)).sort(descending=True, stable=True).indices
        rank = changed.int() + near.int()
        order = order[rank[order].sort(descending=True, stable=True).indices]
        return order[:wanted].sort().values

    def _afresh(self, state: AdaptiveState, x: Tensor, backbone: Backbone, size: tuple[int, int]) -> AdaptiveState:
        """Run the whole tower."""
        plain, grain, grid = state.grey, state.grain, backbone.spec.patch_grid
        if plain is None or state.computed is None or plain.shape != x.shape or state.computed.grid != grid:
            count = backbone.spec.frames_per_step
            shown = [grey(size, 0.0)] * count + [grey(size, PROBE)] * count
            plain, noisy = backbone.patches(backbone.pixels(shown)).unbind()
            grain = float((noisy.float() - plain.float()).square().sum(-1).mean()) / PROBE**2
        # Noise alone is contrast too: on a black picture nothing else would be left to compare with.
        contrast = float((x.float() - plain.float()).var(0, correction=0).sum()) + grain * PROBE**2
        work = partial(full_pass, backbone.blocks(), backbone.spec.taps)
        outputs, *parts = backbone.repeat("stc_adaptive", work, (x,))
        layers = tuple(zip(parts[::2], parts[1::2], strict=True))
        age, worked = (torch.zeros(len(x), dtype=kind, device=x.device) for kind in (torch.int64, torch.bool))
        return AdaptiveState(Computed(x, outputs, layers, age, contrast, grid), plain, grain, worked=~worked)
