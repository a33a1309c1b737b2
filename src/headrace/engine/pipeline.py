"""What to run: one method per role."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace import registry


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A frozen choice of methods.

    Attributes:
        encoder: Turns frames into visual tokens.
        compressor: Thins them before the decoder.
        pruner: Drops rows between decoder layers, or None.
        memory: Keeps the past.
        retriever: Finds what a question needs, None where the memory looks nothing up.
        speaker: Decides when to speak.
        chunk_frames: Frames per step; pushes are regrouped to it, so cutting a stream differently changes nothing.
    """

    encoder: Any
    compressor: Any
    memory: Any
    speaker: Any
    pruner: Any = None
    retriever: Any = None
    chunk_frames: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.chunk_frames, bool) or not isinstance(self.chunk_frames, int) or self.chunk_frames < 1:
            raise ValueError(f"chunk_frames: must be a whole number from 1, not {self.chunk_frames!r}")
        for method in self.methods().values():
            if not method.causal:
                name = registry.name_of(method)
                raise ValueError(f"{name} looks at frames that have not come yet; it cannot run on a live stream")
        if self.speaker.reads_hidden and self.memory.kind == "tokens":
            raise ValueError(
                "this speaker reads the decoder's rows, and a token memory runs the decoder only when asked"
            )

    @staticmethod
    def parse(text: str = "dense", settings: Iterable[str] = (), *, chunk_frames: int = 1) -> Pipeline:
        """Build from a text such as ``dense``, ``recent:4`` or ``rekv:8@window=1040+uniform:0.3``.

        Args:
            text: Names joined by +, each with ``@field=value`` for what is set; roles that are not named take their
                default (dense, keep_all, full, on_request, and the retriever of a memory that looks blocks up).
            settings: ``role.field=value`` texts; they may also name a default's role, as ``@role.field=value`` may.
            chunk_frames: Frames per step.

        Raises:
            ValueError: A name, parameter or value is wrong.
        """
        given, (text, own) = text, registry.apart(text)
        named = registry.parse(text)
        for role, name in (
            ("encoder", "dense"),
            ("compressor", "keep_all"),
            ("memory", "full"),
            ("speaker", "on_request"),
        ):
            if role not in named:
                text = f"{text}+{name}"
        memory: Any = registry.parse(text)["memory"]
        if memory.retriever and "retriever" not in named:
            text = f"{text}+{memory.retriever}"
        elif "retriever" in named and not memory.retriever:
            found, name = registry.name_of(named["retriever"]), registry.name_of(memory)
            raise ValueError(
                f"pipeline {given!r}: {name} looks nothing up, so {found} has nothing to do; name a memory such as rekv"
            )
        return Pipeline(**registry.parse(text, (*own, *settings)), chunk_frames=chunk_frames)

    def methods(self) -> dict[str, Any]:
        """The chosen methods by role, without the empty roles."""
        roles = (field.name for field in dataclasses.fields(self) if field.name != "chunk_frames")
        return {role: getattr(self, role) for role in roles if getattr(self, role) is not None}

    def __str__(self) -> str:
        """The full text of what runs, with every parameter; stored in every result."""
        parts = []
        for role, method in self.methods().items():
            values = ", ".join(f"{f.name}={getattr(method, f.name)!r}" for f in dataclasses.fields(method))
            parts.append(f"{role}={registry.name_of(method)}({values})")
        return f"{' '.join(parts)} chunk_frames={self.chunk_frames}"

    def tuned(self, **values: Any) -> Pipeline:
        """Replace tunable fields while a stream runs, e.g. ``tuned(compressor={"keep": 30})``.

        Raises:
            ValueError: A role is empty, or a field is not tunable.
        """
        new = {}
        for role, changes in values.items():
            method = self.methods().get(role)
            if method is None:
                raise ValueError(f"{role}: this pipeline has none")
            if not isinstance(changes, Mapping):
                raise ValueError(f"{role}: takes fields and their values, such as {{'keep': 30}}, not {changes!r}")
            for field in changes:
                if field not in method.tunable:
                    raise ValueError(f"{role}.{field}: cannot change while a stream runs")
            new[role] = registry.change(method, **changes)
        return dataclasses.replace(self, **new)
