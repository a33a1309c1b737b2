"""The matrix products of a stage: how many operations they are, and how long they take on their own.

No implementation of a stage can do without its matrix products, so their time is the floor under its time. Everything
else (norms, activations, additions, choosing and moving rows) is what an implementation may save.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from headrace.backbones.graphs import Graphs, Recorder
from headrace.engine.step import wait

REPEATS = 5  # the least of so many is a product's time
AT_ONCE = 64  # products that an accelerator does in one go, about
COLD_BYTES = 1 << 26  # second factors take turns in so much memory, so that none is found in a cache


@dataclass(frozen=True, slots=True, order=True)
class Product:
    """``batch`` times an (m, k) matrix by a (k, n) matrix."""

    batch: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.m * self.k * self.n


Products = Mapping[Product, int]


def flops(products: Products) -> int:
    """Operations of all products."""
    return sum(product.flops * count for product, count in products.items())


class Counting(TorchDispatchMode):
    """Notes the matrix products that run while it is entered, attention's and convolutions' included.

    Attributes:
        products: How often every shape ran.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note its products; one that is made of others is taken apart first."""
        kwargs = kwargs or {}
        with self:
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = func(*args, **kwargs)
        self.products.update(_products(func.overloadpacket.__name__, args, out))
        return out


def _products(name: str, args: Sequence[Any], out: Any) -> list[Product]:
    """Matrix products of one operation of torch."""
    if name in ("mm", "addmm"):
        (m, k), (_, n) = (x.shape for x in args[-2:])
        return [Product(1, m, k, n)]
    if name in ("bmm", "baddbmm"):
        (batch, m, k), (*_, n) = (x.shape for x in args[-2:])
        return [Product(batch, m, k, n)]
    if name == "convolution":
        weight = args[1]
        return [Product(1, out.numel() // weight.shape[0], weight[0].numel(), weight.shape[0])]
    if name == "_linear_pointwise":
        (n, k), num = args[1].shape, args[0].numel()
        return [Product(1, num // k, k, n)]
    if name.startswith("_scaled_dot_product"):
        (batch, heads, rows, width), num = args[0].shape, args[1].shape[2]
        return [Product(batch * heads, rows, width, num), Product(batch * heads, rows, num, width)]
    return []


def decoder(spec: Any, inner: int, rows: int, past: int, *, whole: bool) -> Counter[Product]:
    """Products of a decoder that takes in rows.

    Args:
        spec: The model (``types.ModelSpec``).
        inner: Width of the MLP.
        rows: New rows.
        past: Rows there already; a new row also looks at half of the new ones.
        whole: Whether the last layer runs in full, or stops at its keys and values.
    """
    q, kv, sees = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, past + (rows + 1) // 2
    folded, full = spec.heads // spec.kv_heads * rows, spec.layers if whole else spec.layers - 1
    found: Counter[Product] = Counter()
    for product, count in (
        (Product(1, rows, spec.dim, kv), 2 * spec.layers),
        (Product(1, rows, spec.dim, q), full),
        (Product(spec.kv_heads, folded, spec.head_dim, sees), full),
        (Product(spec.kv_heads, folded, sees, spec.head_dim), full),
        (Product(1, rows, q, spec.dim), full),
        (Product(1, rows, spec.dim, inner), 2 * full),
        (Product(1, rows, inner, spec.dim), full),
    ):
        found[product] += count
    return found


def _multiply(rights: Sequence[Tensor], left: Tensor) -> list[Tensor]:
    """Multiply by every one of some factors, (b, k, n) each; a number of the last product."""
    for right in rights:
        found = torch.mm(left[0], right[0]) if len(left) == 1 else torch.bmm(left, right)
    return [found[..., :1, :1]]


class Floor:
    """How long products take on their own; every shape is measured once.

    Launching a product may take longer than it does; on an accelerator many are launched at once, from a recording.

    Args:
        dtype: Number type of the factors.
        device: Where to run.
        recorder: See ``backbones.graphs.Graphs``.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, recorder: Recorder | None = None) -> None:
        self._dtype, self._device, self._recorder = dtype, device, recorder
        self._ms: dict[Product, float] = {}

    def ms(self, products: Products) -> float:
        """Milliseconds of all products."""
        return sum(count * self._one(product) for product, count in products.items())

    def between(self, at: Callable[[int], Products], points: Sequence[int]) -> list[float]:
        """Milliseconds of products whose shapes grow evenly, measured at the first and the last point only.

        Args:
            at: From a point to its products.
            points: Ascending.

        Returns:
            One figure per point, on the line between the two.
        """
        first, last = points[0], points[-1]
        low, high = self.ms(at(first)), self.ms(at(last))
        return [low + (high - low) * (point - first) / max(1, last - first) for point in points]

    def _one(self, product: Product) -> float:
        if product not in self._ms:
            self._ms[product] = self._measure(product)
        return self._ms[product]

    @torch.no_grad()
    def _measure(self, product: Product) -> float:
        left = self._filled(product.batch, product.m, product.k)
        size = product.batch * product.k * product.n * left.element_size()
        alone = self._device.type == "cpu" and self._recorder is None
        copies = max(1, min(REPEATS if alone else AT_ONCE, -(-COLD_BYTES // max(1, size))))
        rights = [self._filled(product.batch, product.n, product.k).transpose(1, 2) for _ in range(copies)]
        groups = [[right] for right in rights] if alone else [rights * (AT_ONCE // copies)]
        graphs, least = Graphs(self._recorder, most=len(groups)), float("inf")
        for turn in range(REPEATS + 2):  # the first two warm up and record
            which = turn % len(groups)
            wait(self._device)
            start = time.perf_counter()
            graphs.run(which, partial(_multiply, groups[which]), (left,))
            wait(self._device)
            if turn > 1:
                least = min(least, 1000 * (time.perf_counter() - start) / len(groups[which]))
        return least

    def _filled(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device).fill_(0.01)
