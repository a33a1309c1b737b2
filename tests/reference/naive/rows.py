"""A row of the past, as plain as can be."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One decoder row; ``keys`` and ``values`` hold one (G, D) tensor per layer, None where the layer lost the row."""

    arrival: int
    kind: int
    ids: tuple[int, ...]
    keys: tuple[Tensor | None, ...]
    values: tuple[Tensor | None, ...]
    frame: int = -1
