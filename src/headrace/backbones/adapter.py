"""What the adapters of all families share: text, rows, places, the vocabulary, and how weights are taken in.

A family's file says what is its own: its tower, how visual tokens are pooled, and what stands around them.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from headrace.backbones.chat import read_chat
from headrace.backbones.decoder import extend, read_rope, read_windows
from headrace.backbones.generating import read_penalty, read_stops, warn_unfollowed
from headrace.backbones.graphs import Graphs
from headrace.backbones.loading import Checkpoint, fingerprint, former_fingerprint
from headrace.backbones.pictures import Pictures, read_pictures
from headrace.backbones.tower import dense_pass
from headrace.protocols import Context, LayerPruner, VisionBlock, Work
from headrace.types import Cursor, Frame, Kind, ModelSpec, Rope, Segment, View, VisualTokens

# what answers rest on, weights apart
DECIDING = ("positions", "scale", "windows", "stop_ids", "repetition_penalty")
ROW_COUNTS = 8  # lengths of segments whose way through the decoder is held: a frame's, an answer's word, questions'


class Adapter:
    """One set of weights, shared by all streams: the part of ``protocols.Backbone`` that is the same in all families.

    A family's class stands in a file called as transformers calls the model type, and is its only public class. It
    calls ``__init__`` first, then sets ``spec`` from ``_describe``.

    Attributes:
        model_class: transformers' class of the whole model.
        defaults: Class defaults of the family's picture processor, for fields a checkpoint leaves out.
        parts: Parts of config.json that may be of several model types, and those that are supported.
        tokenizer: The checkpoint's tokenizer.
        spec: What a method may know of the model.
        view: How the model is looked through.
    """

    model_class: ClassVar[Any]
    defaults: ClassVar[dict[str, Any]]
    parts: ClassVar[dict[str, tuple[str, ...]]] = {}
    spec: ModelSpec
    view: View

    def __init__(
        self, model: Any, decoder: Any, tokenizer: Any, *, video: str, intro: str = "", template: str | None = None
    ) -> None:
        """Take model and tokenizer.

        Args:
            model: The loaded transformers model; it has ``lm_head``.
            decoder: Its decoder: ``embed_tokens``, ``layers``, ``norm``, ``rotary_emb``.
            tokenizer: Its tokenizer.
            video: What a video stands for in the rendered chat template, e.g. ``<video>``.
            intro: What the family writes before the first frame of every clip, behind the template's text.
            template: The chat template where the tokenizer's own is not the one for videos.

        Raises:
            ValueError: They do not fit together.
        """
        self._model, self._decoder, self.tokenizer, self.view = model, decoder, tokenizer, View()
        self._graphs, self._rows = Graphs(), Graphs(most=ROW_COUNTS)
        self._tokenizing = threading.Lock()  # fast tokenizers refuse to be called twice at once
        known, room = len(tokenizer), decoder.embed_tokens.num_embeddings
        if known > room:
            raise ValueError(f"tokenizer: knows {known} tokens, the model only {room}; they do not belong together")
        self._chat = read_chat(tokenizer, video=video, template=template)
        self._prefix, self._reopen = self._chat.prefix + intro, self._chat.reopen + intro

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse what would be walked as something it is not.

        Raises:
            ValueError: The decoder or the tower is of a model type that is not supported.
        """
        for part, known in cls.parts.items():
            kind = getattr(config, part).model_type
            if kind not in known:
                raise ValueError(f"config.json: {part} is of type {kind!r}; supported: {', '.join(known)}")

    @classmethod
    def load(cls, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> Self:
        """Load a checkpoint; see ``backbones.load``."""
        tokenizer, pictures = checkpoint.tokenizer(), read_pictures(checkpoint.read, cls.defaults)
        model = checkpoint.weights(cls.model_class, dtype=dtype, device=device)
        return cls._make(model, tokenizer, pictures, name=checkpoint.name)

    @classmethod
    def adopt(cls, model: Any, tokenizer: Any, *, name: str) -> Self:
        """Serve a model that is loaded already, with the family's picture settings at the tower's size."""
        pictures = read_pictures(lambda file: None, {**cls.defaults, **cls._sized(model.config)})
        return cls._make(model, tokenizer, pictures, name=name)

    @classmethod
    def _make(cls, model: Any, tokenizer: Any, pictures: Pictures, *, name: str) -> Self:
        """Call the family's own ``__init__``, which takes these."""
        return cls(model, tokenizer, pictures, name=name)  # type: ignore[call-arg]

    @staticmethod
    def _sized(config: Any) -> dict[str, Any]:
        """Picture settings that follow from a configuration, for a model that comes without processor files."""
        raise NotImplementedError

    def _describe(self, name: str, **own: Any) -> ModelSpec:
        """Describe the model: the decoder is read, ``own`` adds what only the family knows, or replaces what was read.

        Args:
            name: What to call the model.
            **own: Fields of ``ModelSpec``: at least ``grid``, ``vision_layers``, ``vision_dim``.
        """
        text, attention = self._model.config.text_config, self._decoder.layers[0].self_attn
        weight, generation = self._decoder.embed_tokens.weight, getattr(self._model, "generation_config", None)
        warn_unfollowed(generation, name)
        read: dict[str, Any] = {
            "family": self._model.config.model_type,
            "name": name,
            "layers": text.num_hidden_layers,
            "heads": text.num_attention_heads,
            "kv_heads": text.num_key_value_heads,
            "head_dim": attention.head_dim,
            "dim": text.hidden_size,
            "frames_per_step": 1,
            "scale": attention.scaling,
            "windows": read_windows(text),
            "positions": "repack",
            "dtype": weight.dtype,
            "device": weight.device,
            "stop_ids": read_stops(generation, text, self.tokenizer),
            "repetition_penalty": read_penalty(generation),
            "around_rows": self._around(),
            "prefix_rows": len(self._ids(self._prefix)),
        }
        if "rope" not in own:
            read["rope"] = read_rope(self._decoder, text)
        found = {**read, **own}
        settings = {name: found[name] for name in DECIDING} | {"prefix": self._prefix, "rope": _plain(found["rope"])}
        found |= {"fingerprint": fingerprint(self._model, settings)}
        return ModelSpec(**found, former_fingerprint=former_fingerprint(self._model))

    def choose(self, view: View, frame: Frame) -> View:
        """Leave the view as it is; a family that takes any size has its own."""
        return view

    def at(self, view: View) -> Self:
        """Look through another view; see ``protocols.Backbone``."""
        raise NotImplementedError

    def blocks(self) -> Sequence[VisionBlock]:
        """The tower's layers, in order."""
        raise NotImplementedError

    def patches(self, px: Tensor) -> Tensor:
        """Embed pixels; see ``protocols.Backbone``."""
        raise NotImplementedError

    def project(self, h: Tensor, frames: Sequence[Frame], taps: Sequence[Tensor] = ()) -> VisualTokens:
        """Finish the tower; see ``protocols.Backbone``."""
        raise NotImplementedError

    def vision(self, px: Tensor, frames: Sequence[Frame]) -> VisualTokens:
        """Run the dense tower."""
        h, *taps = dense_pass(self, px)
        return self.project(h, frames, taps)

    def repeat(self, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Do work that differs in its numbers alone; see ``protocols.Backbone``."""
        return self._graphs.run((self.view, key), work, inputs)

    def open(self) -> Segment:
        """The text before the first frame."""
        return self._text(self._prefix, Kind.PREFIX, turn=0)

    def _around(self, *texts: str) -> int:
        """Rows around a step at most: what reopens the conversation where an answer came before, and its own texts."""
        return sum(len(self._ids(text)) for text in (self._reopen, *texts))

    def reopen(self, cursor: Cursor) -> list[Segment]:
        """The text between an answer and the next frame; nothing where no answer came before."""
        return [self._text(self._reopen, Kind.MARKER, turn=cursor.turn)] if cursor.answered else []

    def turn(self, text: str, cursor: Cursor) -> Segment:
        """A question up to where the answer starts."""
        return self._text(self._chat.question(text, answered=cursor.answered), Kind.TEXT, turn=cursor.turn)

    def embed(self, token_ids: Sequence[int], *, turn: int) -> Segment:
        """Rows of vocabulary entries, as an answer's."""
        ids = torch.tensor(list(token_ids), dtype=torch.int64)
        return Segment(
            embeds=self._decoder.embed_tokens(ids.to(self.spec.device)),
            ids=torch.arange(len(ids)).expand(self.spec.position_rows, -1),
            advance=len(ids),
            kind=torch.full((len(ids),), int(Kind.ANSWER), dtype=torch.int8),
            frame=torch.full((len(ids),), -1),
            time_s=torch.full((len(ids),), -1.0, dtype=torch.float64),
            tokens=ids,
            turn=turn,
        )

    def _ids(self, text: str) -> list[int]:
        with self._tokenizing:
            return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _text(self, text: str, kind: Kind, *, turn: int, shown: tuple[int, float] | None = None) -> Segment:
        """Rows of a text; ``shown`` is index and time of the frame it belongs to, for what stands around a frame."""
        seg = self.embed(self._ids(text), turn=turn)
        seg = replace(seg, kind=torch.full_like(seg.kind, int(kind)))
        if shown is None:
            return seg
        frame, time_s = shown
        return replace(seg, frame=torch.full_like(seg.frame, frame), time_s=torch.full_like(seg.time_s, time_s))

    def place(self, cursor: Cursor, segment: Segment) -> tuple[Segment, Cursor]:
        """Count positions over the whole stream, dropped tokens included; a family with more axes has its own."""
        placed = replace(segment, ids=segment.ids + cursor.next)
        return placed, replace(cursor, next=cursor.next + segment.advance, said=cursor.hears(segment))

    def extend(
        self,
        segment: Segment,
        context: Context,
        *,
        pruner: LayerPruner | None = None,
        outputs: int | None = None,
        watch: bool = False,
    ) -> Tensor:
        """Run the decoder; see ``protocols.Backbone``."""
        return extend(
            self._decoder,
            self.spec,
            segment,
            context,
            pruner=pruner,
            outputs=outputs,
            watch=watch,
            repeat=self._rows.run,
        )

    def logits(self, h: Tensor) -> Tensor:
        """Score the vocabulary."""
        return self._model.lm_head(h)  # type: ignore[no-any-return]

    def parameters(self) -> Iterator[Tensor]:
        """All weights, tied ones once."""
        yield from self._model.parameters()

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turn ids into text."""
        with self._tokenizing:
            return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))


def raster(
    features: Tensor, grid: tuple[int, int], frames: Sequence[Frame], *, deep: Tensor | None = None
) -> VisualTokens:
    """Give features their places, frame by frame in raster order.

    Args:
        features: (F*rows*cols, D).
        grid: (rows, cols).
        frames: The F frames; of a temporal step of several, the one that stands for it.
        deep: (J, F*rows*cols, D) deepstack features, or None.
    """
    axes = torch.meshgrid(*(torch.arange(n) for n in (len(frames), *grid)), indexing="ij")
    frame, row, col = (axis.flatten() for axis in axes)
    return VisualTokens(
        features=features,
        frame=frame,
        row=row,
        col=col,
        grid=grid,
        frames=tuple(f.index for f in frames),
        times_s=tuple(f.time_s for f in frames),
        deep=deep,
    )


def visual_rows(tokens: VisualTokens, ids: Tensor, *, advance: int, turn: int) -> Segment:
    """Make decoder rows of visual tokens.

    Args:
        tokens: N tokens.
        ids: (P, N) int64 relative position ids; a dropped token leaves a gap.
        advance: Positions the step consumes, dropped tokens included.
        turn: Number of the conversation turn.
    """
    return Segment(
        embeds=tokens.features,
        ids=ids,
        advance=advance,
        kind=torch.full((len(tokens),), int(Kind.VISUAL), dtype=torch.int8),
        frame=torch.tensor(tokens.frames, dtype=torch.int64)[tokens.frame],
        time_s=torch.tensor(tokens.times_s, dtype=torch.float64)[tokens.frame],
        tokens=torch.full((len(tokens),), -1),
        turn=turn,
        deep=tokens.deep,
    )


def _plain(rope: Rope) -> tuple[Any, ...]:
    """Rotary settings as plain numbers."""
    return (rope.inv_freq.tolist(), rope.scaling, rope.trained_length, rope.kind, rope.section)
