"""A device that is not the CPU, for machines that have no other: its tensors lie on the CPU and may not meet the CPU's.

It computes what a CPU computes and takes what a GPU takes: operations on tensors of one device, numbers,
and indices from the CPU. What waits for a device is counted: numbers that are read back, and results whose size only
the device knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import extract_stack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _DummyPrivateUse1Hook,
    _setup_privateuseone_for_python_backend,
)

NAME = "elsewhere"
ATEN = torch.ops.aten
COPIES = (ATEN._to_copy.default, ATEN.copy_.default)
INDEXES = (ATEN.index.Tensor, ATEN.index_put_.default, ATEN.index_put.default, ATEN._index_put_impl_.default)
SIZES = (ATEN.nonzero.default, ATEN.masked_select.default, ATEN._unique2.default)


class _Hidden(_DummyBackendModule):
    """No accelerator that anybody would choose by itself."""

    def is_available(self) -> bool:
        return False


class _HiddenHook(_DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return False


_setup_privateuseone_for_python_backend(NAME, _Hidden(), _HiddenHook())
DEVICE = torch.device(NAME, 0)


class Away(Tensor):
    """A tensor elsewhere; ``here`` is what it holds."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        shape, strides = here.size(), here.stride()
        away: Away = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, shape, strides=strides, storage_offset=here.storage_offset(), dtype=here.dtype, device=DEVICE
        )
        away.here = here
        return away

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("tensors elsewhere are used inside of `elsewhere()` alone")


class _Computing(TorchDispatchMode):
    """Carries operations out on what tensors elsewhere hold, and counts what waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        away = any(isinstance(x, Away) for x in tensors)
        if away:
            _check(func, args, tensors)
        device = kwargs.get("device")
        kwargs.pop("pin_memory", None)  # pages are pinned for a device that reads them by itself
        if device is not None:
            away = torch.device(device).type == NAME
            kwargs["device"] = torch.device("cpu") if away else device
        elif func in COPIES:
            away = isinstance(args[0], Away)
        found = func(*tree_map(_here, args), **tree_map(_here, kwargs))
        if _waits(func, args, tensors, away=away):
            self.waits[_place()] += 1
        if func is ATEN._local_scalar_dense.default:
            return found
        known = {id(_here(x)): x for x in tensors}  # what is changed in place stays the same tensor
        return tree_map(lambda x: known.get(id(x), Away(x) if away else x) if isinstance(x, Tensor) else x, found)


class _Making(TorchFunctionMode):
    """What makes tensors of Python's numbers, or numbers of tensors, without an operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func is torch.Tensor.new_tensor and isinstance(args[0], Away) and device is None:
            func, args, device = torch.tensor, args[1:], NAME
            kwargs = {"dtype": None, **kwargs}
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device).type == NAME:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        if func is torch.Tensor.tolist and isinstance(args[0], Away):
            return args[0].cpu().tolist()
        return func(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[Counter[str]]:
    """Let tensors be elsewhere; yields how often each place of the package waited for them."""
    computing = _Computing()
    with computing, _Making(), torch.no_grad():
        yield computing.waits


def _here(x: Any) -> Any:
    return x.here if isinstance(x, Away) else x


def _check(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Refuse what a GPU refuses."""
    strays = [x for x in tensors if not isinstance(x, Away) and x.ndim]
    indexed = func in INDEXES and isinstance(args[0], Away)
    if strays and not indexed and func not in COPIES:
        raise RuntimeError(f"{func} expects all tensors on one device, not some of {NAME} and some of the cpu")


def _waits(func: Any, args: Any, tensors: list[Tensor], *, away: bool) -> bool:
    """True where the CPU has to wait until the device has come so far."""
    if func in COPIES:
        source = args[1] if func is ATEN.copy_.default else args[0]
        return isinstance(source, Away) and not away
    if func is ATEN._local_scalar_dense.default or func in SIZES:
        return isinstance(args[0], Away)
    return func in INDEXES and any(isinstance(x, Away) and x.dtype == torch.bool for x in args[1])


def _place() -> str:
    """The innermost line of the package that is at work."""
    frames = [x for x in extract_stack() if "/src/headrace/" in x.filename]
    return f"{frames[-1].filename.split('/src/headrace/')[1]}: {frames[-1].line}" if frames else "a test"
