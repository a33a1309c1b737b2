"""How a method of each role is played in tests: an endless deterministic stream of inputs, and one step of the method.

What holds for every role (interleaving, forks, resuming, tuning) is tested on plays, so that it is written once.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from contract.streams import DIM, frames_of, observation_of, place, shelved, tokens_of, turn_of, walk, wrapped
from headrace import registry
from headrace.cache import KVCache, Shelf, VectorIndex
from headrace.engine.state import pack, unpack
from headrace.engine.step import apply, put
from headrace.types import Cursor, ModelSpec, Placed, Span, VisualTokens
from reference.naive.decoder import Decoder, drive, spec

REFERENCE = Path(__file__).parent.parent / "reference"

# Layouts of positions a memory has to work with: position rows and how they are spread over the channels.
LAYOUTS = {"p1": (1, "plain"), "chunked": (3, "chunked"), "interleaved": (3, "interleaved")}
WINDOWS = (None, 5)


def has_twin(name: str) -> bool:
    """True where the twin's file exists."""
    return (REFERENCE / f"{name}.py").is_file()


def twin_of(name: str) -> Any:
    """The naive twin's module; it is found because its file is called like the method.

    Raises:
        AssertionError: There is none.
    """
    assert has_twin(name), f"method {name!r} has no naive twin: write tests/reference/{name}.py"
    return importlib.import_module(f"reference.{name}")


@dataclass(frozen=True)
class Case:
    """A method with some values, in some surroundings (a layout, a type, a family)."""

    name: str
    role: str
    values: tuple[tuple[str, Any], ...]
    where: str

    def __str__(self) -> str:
        values = ",".join(f"{key}={value}" for key, value in self.values)
        return f"{self.name}({values})@{self.where}"

    @property
    def kwargs(self) -> dict[str, Any]:
        """The values as keywords."""
        return dict(self.values)

    def build(self) -> Any:
        """Build the method."""
        return registry.build(self.name, **self.kwargs)


def cases(table: str, *roles: str) -> list[Case]:
    """Cases of all registered methods of these roles, from the table ``VARIANTS`` or ``IDENTITY`` of their twins.

    A method whose twin is missing or lacks the table has none here; ``test_has_a_naive_twin`` fails for it.
    """
    found = []
    for entry in registry.entries().values():
        if entry.role in roles and has_twin(entry.name):
            for values in getattr(twin_of(entry.name), table, ()):
                found.extend(
                    Case(entry.name, entry.role, tuple(values.items()), where) for where in WHERE[entry.role]()
                )
    return found


class Play:
    """A method at work; see the subclasses for one per role."""

    def __init__(self, case: Case, method: Any) -> None:
        self.case = case
        self.method = method

    spec: ModelSpec

    def init(self) -> Any:
        """State before the first item."""
        return self.method.init(self.spec)

    def item(self, seed: int, i: int) -> Any:
        """The ``i``-th input of a stream."""
        raise NotImplementedError

    def step(self, state: Any, item: Any) -> tuple[Any, Any]:
        """One step: next state and what came out."""
        raise NotImplementedError


class CompressorPlay(Play):
    """Tokens in, tokens after the edit out. The bf16 case carries deepstack features and weights."""

    def __init__(self, case: Case, method: Any) -> None:
        super().__init__(case, method)
        self.dtype = getattr(torch, case.where)
        self.spec = replace(spec(dtype=self.dtype, grid=(4, 5)), dim=DIM)

    def item(self, seed: int, i: int) -> VisualTokens:
        return tokens_of(seed, i, grid=(4, 5), dtype=self.dtype, attached=self.case.where == "bfloat16")

    def step(self, state: Any, item: VisualTokens) -> tuple[Any, VisualTokens]:
        state, edit = self.method.step(state, item)
        return state, apply(edit, item)


class EncoderPlay(Play):
    """Frames in, tokens out, on a backbone."""

    def __init__(self, case: Case, method: Any, backbone: Any) -> None:
        super().__init__(case, method)
        self.backbone = backbone
        self.spec = backbone.spec

    def item(self, seed: int, i: int) -> tuple[Any, ...]:
        return frames_of(seed, i, self.spec.frames_per_step * (1 + i % 2))

    def step(self, state: Any, item: tuple[Any, ...]) -> tuple[Any, VisualTokens]:
        with torch.no_grad():
            return self.method.step(state, item, self.backbone)


class MemoryPlay(Play):
    """Steps of frames and remembered turns in, hidden rows of the step and of a question asked behind it out."""

    def __init__(self, case: Case, method: Any, *, dtype: torch.dtype = torch.float32, bare: bool = False) -> None:
        super().__init__(case, method)
        rows, kind = LAYOUTS[case.where]
        self.bare = bare
        self.spec = replace(spec(position_rows=rows, kind=kind, windows=(None, WINDOWS[1]), dtype=dtype), taps=(0, 1))
        self.decoder = Decoder(self.spec)

    def init(self) -> Any:
        state = self.method.init(self.spec)
        return state if self.method.kind == "tokens" else self._run(state, self.walk(0)[0])[0]

    def walk(self, seed: int) -> tuple[Any, ...]:
        """The stream: a prefix, then frames and turns."""
        return walk(seed, self.spec.position_rows, self.spec.dtype, bare=self.bare)

    def item(self, seed: int, i: int) -> Any:
        return self.walk(seed)[1 + i]

    def step(self, state: Any, item: Any) -> tuple[Any, Any]:
        if self.method.kind == "tokens":
            segment = item.segment if item.tokens is not None else item.raw
            state, hidden = self.method.write(state, Span(segment=segment, tokens=item.tokens)), None
        else:
            state, hidden = self._run(state, item)
        return state, (hidden, self.ask(state, item) if item.asked else ())

    def _run(self, state: Any, item: Any) -> tuple[Any, Tensor]:
        context = self.method.read(state, self.spec, query=False)
        hidden = drive(self.decoder, item.segment, context, drop=item.drop)
        return self.method.write(state, context.finish()), hidden

    def ask(self, state: Any, item: Any) -> tuple[Tensor, Tensor]:
        """Run a question and two answer rows behind what the memory holds; nothing is written."""
        context = self.method.read(state, self.spec, query=True)
        cursor = item.cursor
        if self.method.kind == "tokens":
            cursor = self.replay(state, context)
        asked, cursor = turn_of(7, 3, cursor, self.spec.position_rows, self.spec.dtype)
        first = drive(self.decoder, asked, context, watch=True)
        asked, _ = turn_of(8, 2, cursor, self.spec.position_rows, self.spec.dtype)
        return first, drive(self.decoder, asked, context)

    def replay(self, state: Any, context: Any) -> Cursor:
        """Run what a token memory recalls: the prefix, then its items, placed one behind the other."""
        segment, cursor = place(self.walk(0)[0].raw, Cursor())
        drive(self.decoder, segment, context)
        for item in self.method.recall(state):
            if isinstance(item, Placed):
                segment, cursor = put(item, wrapped(item.tokens, self.spec.position_rows), cursor)
            else:
                raw = wrapped(item, self.spec.position_rows) if isinstance(item, VisualTokens) else item
                segment, cursor = place(raw, cursor)
            drive(self.decoder, segment, context)
        return cursor


class RetrieverPlay(Play):
    """Blocks and questions in, names of the chosen blocks and their worth out; the oldest of ten blocks leaves."""

    def __init__(self, case: Case, method: Any) -> None:
        super().__init__(case, method)
        self.spec = spec(dtype=getattr(torch, case.where))

    def item(self, seed: int, i: int) -> Any:
        return shelved(seed, i, self.spec)

    def step(self, state: Any, item: Any) -> tuple[Any, Any]:
        state = self.method.add(state, item.number, item.block, item.embeds)
        if item.number >= 10:
            state = self.method.drop(state, torch.tensor([item.number - 10]))
        layers = range(self.spec.layers) if self.method.per_layer else (None,)
        return state, tuple(self.ask(state, layer, item, budget) for layer in layers for budget in (0, 3, 50))

    def ask(self, state: Any, layer: int | None, item: Any, budget: int) -> tuple[Tensor, Tensor]:
        """Ask for blocks; names and worth."""
        found = self.method.select(state, layer, item.words if layer is None else item.queries[layer], budget)
        return found.ids, found.scores


class SpeakerPlay(Play):
    """Observations in, decisions out."""

    def __init__(self, case: Case, method: Any) -> None:
        super().__init__(case, method)
        self.spec = spec()

    def item(self, seed: int, i: int) -> Any:
        return observation_of(seed, i, hidden=self.method.reads_hidden, reply=self.method.reads_reply)

    def step(self, state: Any, item: Any) -> tuple[Any, Any]:
        return self.method.step(state, item)


def families() -> list[str]:
    """All model families."""
    from headrace.backbones import FAMILIES

    return list(FAMILIES)


WHERE: dict[str, Callable[[], list[str]]] = {
    "compressor": lambda: ["float32", "bfloat16"],
    "encoder": families,
    "memory": lambda: ["p1", "interleaved"],
    "retriever": lambda: ["float32", "bfloat16"],
    "speaker": lambda: ["speech"],
}
PLAYS: dict[str, Any] = {
    "compressor": CompressorPlay,
    "memory": MemoryPlay,
    "retriever": RetrieverPlay,
    "speaker": SpeakerPlay,
}


def play_of(case: Case, backbones: Callable[[str], Any], **values: Any) -> Play:
    """Set a case up; ``values`` replace fields of the method."""
    method = replace(case.build(), **values)
    if case.role == "encoder":
        return EncoderPlay(case, method, backbones(case.where))
    return PLAYS[case.role](case, method)


def run(play: Play, state: Any, seed: int, steps: range) -> tuple[Any, list[Any]]:
    """Run some steps of a stream; outputs are frozen copies."""
    outs = []
    for i in steps:
        state, out = play.step(state, play.item(seed, i))
        check_state(state)
        outs.append(frozen(out))
    return state, outs


def leaves(value: Any) -> Iterator[Any]:
    """Everything in a tree of dataclasses, tuples and dicts that is none of these."""
    if isinstance(value, Tensor) or not (is_dataclass(value) or isinstance(value, tuple | list | dict)):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    else:
        for field in fields(value):
            yield from leaves(getattr(value, field.name))


def nodes(value: Any) -> Iterator[Any]:
    """Everything in a tree, the dataclasses themselves included."""
    yield value
    if isinstance(value, dict):
        value = tuple(value.values())
    elif is_dataclass(value) and not isinstance(value, Tensor):
        value = tuple(getattr(value, field.name) for field in fields(value))
    if isinstance(value, tuple | list):
        for item in value:
            yield from nodes(item)


def frozen(out: Any) -> list[Any]:
    """A copy of an output that nobody can change."""
    return [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves(out)]


def equal(a: list[Any], b: list[Any]) -> bool:
    """Compare frozen outputs bit by bit."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    return type(a) is type(b) and a == b


def check_state(state: Any) -> None:
    """Every cache in a state is whole."""
    for node in nodes(state):
        if isinstance(node, KVCache | Shelf | VectorIndex):
            node.check()


def through_bytes(state: Any, model: ModelSpec) -> Any:
    """Save a state as bytes and text, and rebuild it from those alone."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(pack(state, tensors))
    return unpack(json.loads(text), load(save(tensors)), model)


def state_bytes(state: Any) -> int:
    """Bytes of everything that would be saved."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(pack(state, tensors))
    return len(text) + sum(x.numel() * x.itemsize for x in tensors.values())


@cache
def entry_names(role: str | None = None) -> tuple[str, ...]:
    """Registered methods, of one role or of all."""
    return tuple(entry.name for entry in registry.entries().values() if role in (None, entry.role))
