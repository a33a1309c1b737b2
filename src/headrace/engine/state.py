"""Everything about a stream that changes, as one value; how to copy it, and how to turn it into plain trees."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from headrace.cache import Written
from headrace.types import Cursor, Event, Frame, ModelSpec, View


@dataclass(frozen=True, slots=True)
class Standing:
    """A standing instruction of a stream.

    Attributes:
        number: What it is called by; counted from 1, never used again.
        text: The instruction.
        max_tokens: Longest reply, in tokens.
        speaker: State of the speaker for this instruction.
    """

    number: int
    text: str
    max_tokens: int
    speaker: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """The state of one stream; replaced as a whole by every push.

    Attributes:
        encoder: State of the encoder.
        compressor: State of the compressor.
        memory: State of the memory.
        speaker: State of the speaker.
        cursor: Canonical position and place in the conversation.
        pending: Frames that wait for their step to fill.
        num_frames: Frames pushed so far, pending ones included.
        time_s: Time of the last pushed frame, -1 before the first.
        next_index: Index of the frame that would follow the last pushed one.
        num_tokens_in: Visual tokens before compression, over the whole stream.
        num_tokens_kept: Visual tokens after compression, over the whole stream.
        watching: Standing instructions, oldest first.
        num_watches: Standing instructions given so far, those taken back included.
        view: How the stream looks through the model.
        unheard: What the stream has said since the last push.
        began_s: Time of the first frame, None before it.
    """

    encoder: Any
    compressor: Any
    memory: Any
    speaker: Any
    cursor: Cursor = field(default_factory=Cursor)
    pending: tuple[Frame, ...] = ()
    num_frames: int = 0
    time_s: float = -1.0
    next_index: int = 0
    num_tokens_in: int = 0
    num_tokens_kept: int = 0
    watching: tuple[Standing, ...] = ()
    num_watches: int = 0
    view: View = field(default_factory=View)
    unheard: tuple[Event, ...] = ()
    began_s: float | None = None


def counted(state: StreamState, frame: Frame) -> StreamState:
    """The state with one frame more: how many there are, and where they stand in time."""
    return replace(
        state,
        num_frames=state.num_frames + 1,
        time_s=frame.time_s,
        next_index=frame.index + 1,
        began_s=state.began_s if state.num_frames else frame.time_s,
    )


def waiting(state: StreamState, frame: Frame) -> StreamState:
    """The state with a frame that waits for its step, and so outlives the push: its picture is copied.

    Whoever made the frame may use the picture's memory again.
    """
    own = replace(frame, image=frame.image.clone())
    return replace(counted(state, frame), pending=(*state.pending, own))


def fork(value: Any) -> Any:
    """Copy a state for another stream: values share what never changes, tensors are copied."""
    return _copy(value, ("fork",))


def alias(value: Any) -> Any:
    """Copy a state so that a step on the copy can be thrown away; of the two only one may go on.

    Like ``fork``, but a cache copies nothing.
    """
    return _copy(value, ("alias", "fork"))


def _copy(value: Any, ways: tuple[str, ...]) -> Any:
    """Copy a tree; what has one of the methods ``ways`` is copied by the first it has."""
    if isinstance(value, Tensor):
        return value.clone()
    if way := next((way for way in ways if hasattr(value, way)), None):
        return getattr(value, way)()
    if isinstance(value, tuple):
        return tuple(_copy(item, ways) for item in value)
    if isinstance(value, dict):
        return {key: _copy(item, ways) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        copies = {f.name: _copy(getattr(value, f.name), ways) for f in dataclasses.fields(value)}
        return replace(value, **copies)
    constant = value is None or isinstance(value, int | float | bool | str | frozenset)
    assert constant, f"{type(value)} may not stand in a state"
    return value


def pack(value: Any, tensors: dict[str, Tensor], written: list[Written] | None = None) -> Any:
    """Turn a state into a JSON tree; tensors go to ``tensors`` under a number.

    Args:
        value: The state, or a part of it.
        tensors: Takes a copy of every tensor on the CPU.
        written: Takes rows that have an owner and so never change, where given; then such rows, and others that no
            step touches again, are not copied and stay on their device.

    Returns:
        The tree.

    Raises:
        TypeError: Something may not stand in a state.
    """
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, Written):
        return _pack_written(value, tensors, written)
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name, "host": value.device.type == "cpu"}
    if isinstance(value, tuple):
        return {"tuple": [pack(item, tensors, written) for item in value]}
    if isinstance(value, frozenset):
        return {"set": sorted(value)}
    if isinstance(value, dict):
        pairs = [(pack(key, tensors), pack(item, tensors, written)) for key, item in value.items()]
        if any(isinstance(key, dict) for key, _ in pairs):
            raise TypeError(f"{next(iter(value))!r} may not stand in a state as a key; keys are texts and numbers")
        return {"dict": pairs}
    kind = f"{type(value).__module__}:{type(value).__qualname__}"
    if hasattr(value, "pack"):
        return {"packed": kind, "tree": pack(value.pack(), tensors, written)}
    if dataclasses.is_dataclass(value):
        fields = {f.name: pack(getattr(value, f.name), tensors, written) for f in dataclasses.fields(value)}
        return {"class": kind, "fields": fields}
    raise TypeError(f"{type(value)} may not stand in a state")


def _pack_written(value: Written, tensors: dict[str, Tensor], written: list[Written] | None) -> Any:
    """Leave rows with an owner to ``written``, where it is given; else put their tensors among the others."""
    if written is not None and value.owner is not None:
        written.append(value)
        return {"written": len(written) - 1}
    names = {}
    for key, tensor in value.held().items():
        names[key] = str(len(tensors))
        tensors[names[key]] = tensor.detach() if written is not None else tensor.detach().cpu().clone().contiguous()
    return {"rows": names, "first": value.first}


def unpack(tree: Any, tensors: Mapping[str, Tensor], spec: ModelSpec, written: Sequence[Written] = ()) -> Any:
    """Rebuild a state from ``pack``, tensors on the model's device where they came from one.

    Args:
        tree: What ``pack`` returned.
        tensors: What it put there.
        spec: The model.
        written: The rows it left there, in the same order.

    Raises:
        ValueError: The tree names a class that is not headrace's.
    """
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        tensor = tensors[tree["tensor"]]
        return tensor if tree["host"] else tensor.to(spec.device)
    if "written" in tree:
        return written[tree["written"]]
    if "rows" in tree:
        return Written({key: tensors[name] for key, name in tree["rows"].items()}, tree["first"])
    if "tuple" in tree:
        return tuple(unpack(item, tensors, spec, written) for item in tree["tuple"])
    if "set" in tree:
        return frozenset(tree["set"])
    if "dict" in tree:
        return {key: unpack(item, tensors, spec, written) for key, item in tree["dict"]}
    if "packed" in tree:
        return _find(tree["packed"], "unpack").unpack(unpack(tree["tree"], tensors, spec, written), spec)
    return _find(tree["class"], "__dataclass_fields__")(
        **{key: unpack(item, tensors, spec, written) for key, item in tree["fields"].items()}
    )


def _find(kind: str, mark: str) -> Any:
    """Find a class of this package by ``module:name``; ``mark`` is what makes it one of a state's."""
    module, _, name = kind.partition(":")
    if module.startswith("headrace.") and importlib.util.find_spec(module) is not None:
        found = getattr(importlib.import_module(module), name, None)
        if isinstance(found, type) and hasattr(found, mark):
            return found
    raise ValueError(f"{kind!r} is no state of headrace")


def same(a: Any, b: Any) -> bool:
    """Compare two states bit by bit."""
    left: dict[str, Tensor] = {}
    right: dict[str, Tensor] = {}
    if pack(a, left) != pack(b, right) or left.keys() != right.keys():
        return False
    return all(left[key].dtype == right[key].dtype and torch.equal(left[key], right[key]) for key in left)
