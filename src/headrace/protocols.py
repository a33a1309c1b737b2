"""The verbs of headrace: what a backbone, a method, a memory and its Context must do; see ``docs/walk.md``.

A method is a frozen dataclass of numbers; its state, a value of one stream, is made by ``init`` and moved by ``step``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from headrace.types import Decision, Edit, Frame, Observation, Placed, VisualTokens
from headrace.types.rows import Cursor, Early, Segment, Span
from headrace.types.spec import ModelSpec, View

S = TypeVar("S")
Work = Callable[..., Sequence[Tensor]]  # from tensors to tensors


@dataclass(frozen=True, slots=True)
class Card:
    """Where a method comes from and how ours differs."""

    title: str  # name of the published system, or what this part is
    paper: str = ""  # link or venue; empty where it is our own
    licence: str = ""  # of the original repository, "none" where it has none
    differs: str = ""  # one line on how ours differs


class Method:
    """What every method class says about itself. A method is a frozen, keyword-only dataclass of numbers.

    Attributes:
        card: Where it comes from.
        causal: False keeps it out of live streams, because it looks at frames that have not come yet.
        tunable: Fields that may change while a stream runs; the state stays valid for any value of them.
        effort: Tunable fields that cost time, with their cheapest and their fullest sensible value: what a governor may
            turn, from the value a stream was opened with towards the cheapest. Floats for a field that may also hold a
            whole number are a share of a frame's tokens. A cheapest above the fullest makes costly steps rarer. Between
            the ends it goes by equal ratios; by equal differences where the cheapest is 0 or less.
        presets: Names of pipelines built on this method, and their texts.
        retriever: Of a memory that looks blocks up, the retriever it has where the pipeline names none; its ``init``
            takes the retriever behind the spec.
        digests: Of a kv memory: a question sees frames that wait for their step as ``write`` leaves them, not whole.
        shorthand: The field that ``NAME:VALUE`` sets, or nothing.
    """

    card: ClassVar[Card]
    causal: ClassVar[bool] = True
    tunable: ClassVar[frozenset[str]] = frozenset()
    effort: ClassVar[dict[str, tuple[float, float]]] = {}
    presets: ClassVar[dict[str, str]] = {}
    retriever: ClassVar[str] = ""
    digests: ClassVar[bool] = False
    shorthand: ClassVar[str] = ""

    def next_kind(self, state: Any) -> str:
        """Name the kind of step that comes next, where costly and cheap ones take turns; from the state before it."""
        return ""

    def carry(self, segment: Segment) -> Segment:
        """Add rows of a kv memory's own to the rows of a step, before they are placed; most add none."""
        return segment

    def one_by_one(self) -> bool:
        """True where a kv memory is to be given the frames of a step in turn, however many come at once."""
        return False


class VisionBlock(Protocol):
    """One layer of a vision tower, opened so that an encoder may reuse parts of it.

    All tensors are (F, N, D): F temporal steps that know nothing of each other, of N rows in the tower's order
    (``ModelSpec.patch_order``). Where only U rows of each are given, ``rows`` (F, U) int64 says which; any order, none
    twice. Which rows a row attends to within its step, and how its place turns query and key, is the layer's business.
    """

    def norm1(self, h: Tensor) -> Tensor:
        """Normalise the input of the attention."""

    def keys(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Project (F, U, D) rows to keys; they may be kept for as long as the row stays at its place."""

    def queries_values(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Project (F, U, D) rows to queries and values."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor | None = None) -> Tensor:
        """Attend the (F, U, D) queries of some rows to the (F, N, D) keys and values of all."""

    def out(self, o: Tensor) -> Tensor:
        """Project the attention's output."""

    def norm2(self, h: Tensor) -> Tensor:
        """Normalise the input of the MLP."""

    def mlp(self, x: Tensor) -> Tensor:
        """Apply the MLP."""


class Backbone(Protocol):
    """Weights of one model, shared by all streams and never changed. Every call may come from any thread.

    A backbone looks through a ``View``; ``at`` gives another one on the same weights, which costs next to nothing.
    """

    spec: ModelSpec
    view: View
    tokenizer: Any

    def choose(self, view: View, frame: Frame) -> View:
        """Choose the size of all frames of a stream from its first one, where the view leaves it open."""

    def at(self, view: View) -> Backbone:
        """Look through another view; ValueError where it has something the model cannot do."""

    def pixels(self, frames: Sequence[Frame]) -> Tensor:
        """Resize and normalise frames: uint8 (H, W, 3) each to (F, C, height, width) in the model's type."""

    def patches(self, px: Tensor) -> Tensor:
        """Embed pixels: (F, C, height, width) to the tower's rows (F', N, D).

        F' counts temporal steps: F where the tower takes frames one by one. A step that lacks frames is filled up
        with its last one.
        """

    def blocks(self) -> Sequence[VisionBlock]:
        """The layers of the tower, in order."""

    def project(self, h: Tensor, frames: Sequence[Frame], taps: Sequence[Tensor] = ()) -> VisualTokens:
        """Pool (F', N, D) rows of the last layer, and of the layers ``spec.taps``, to tokens in the decoder's width."""

    def vision(self, px: Tensor, frames: Sequence[Frame]) -> VisualTokens:
        """Run the dense tower: patches, all blocks, project."""

    def repeat(self, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Do ``work(*inputs)``, perhaps from a recording, bit for bit; see ``backbones.graphs.Graphs.run``."""

    def open(self) -> Segment:
        """The prefix before the first frame: step 0 of every stream (the sinks)."""

    def wrap(self, tokens: VisualTokens, cursor: Cursor) -> Segment:
        """Put the family's delimiters, timestamps and newlines around the visual tokens of a step."""

    def close_clip(self, cursor: Cursor) -> Segment | None:
        """What the family puts after a clip before text; used at question time, None where there is nothing."""

    def turn(self, text: str, cursor: Cursor) -> Segment:
        """A question as the chat template writes it, up to where the answer starts."""

    def embed(self, token_ids: Sequence[int], *, turn: int) -> Segment:
        """Rows of an answer's tokens."""

    def place(self, cursor: Cursor, segment: Segment) -> tuple[Segment, Cursor]:
        """Give a segment its canonical position ids and move the cursor behind it."""

    def extend(
        self,
        segment: Segment,
        context: Context,
        *,
        pruner: LayerPruner | None = None,
        outputs: int | None = None,
        watch: bool = False,
    ) -> Tensor:
        """Run the decoder over new rows; keys and values go to the context.

        Args:
            segment: T placed rows.
            context: What they may look at; takes their keys and values.
            pruner: Drops visual rows between layers.
            outputs: How many of the last rows are needed, None for all. Rows that are not needed skip the last layer's
                queries, attention and MLP; their keys and values are computed.
            watch: Ask the context how much attention the last row pays to every row it sees.

        Returns:
            (rows, D) normalised hidden rows.
        """

    def logits(self, h: Tensor) -> Tensor:
        """Score the vocabulary: (T, D) to (T, V)."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turn vocabulary ids into text, without special tokens."""


class Encoder(Protocol[S]):
    """Turns the frames of a step into visual tokens.

    A state may have a field ``spent``, the share of a dense tower's work that the last step took: a report repeats it.
    """

    def init(self, spec: ModelSpec) -> S:
        """State before the first frame."""

    def step(self, state: S, frames: Sequence[Frame], backbone: Backbone) -> tuple[S, VisualTokens]:
        """Encode the frames of one step."""


@runtime_checkable
class SelectiveEncoder(Protocol):
    """An encoder that does not compute every patch in every layer, and says which ones it did."""

    def updated(self, state: Any, num_frames: int) -> Tensor:
        """Patches that the last step computed, from the state after it.

        Args:
            state: The encoder's state after a step.
            num_frames: F, the frames of that step.

        Returns:
            (L, F, N) bool per tower layer, frame and patch; False where earlier work was used again.
        """


class Compressor(Protocol[S]):
    """Thins visual tokens before the decoder."""

    def init(self, spec: ModelSpec) -> S:
        """State before the first frame."""

    def step(self, state: S, tokens: VisualTokens) -> tuple[S, Edit]:
        """Decide what to keep of one step's tokens."""


class LayerPruner(Protocol):
    """Drops visual rows between decoder layers. Stateless."""

    def keep(self, layer: int, h: Tensor, visual: Tensor) -> Tensor | None:
        """Choose rows after a layer.

        Args:
            layer: The layer that has just run.
            h: (T, D) its output rows.
            visual: (T,) bool, which of them may be dropped.

        Returns:
            (K,) int64 ascending rows to keep, or None to keep all.
        """


class Context(Protocol):
    """What one prompt or step of frames may attend to, and its tail of new rows; never changes the memory it reads.

    Attributes:
        reads_queries: It wants every layer's queries for all rows, also where no output is needed.
    """

    reads_queries: bool

    def begin(self, segment: Segment) -> None:
        """Decide the positions of the new rows."""

    def angles(self) -> tuple[Tensor, Tensor] | None:
        """Let the new rows be rotated and attended to each other beforehand, by (T, D) cos and sin; None: do not."""

    def attend(
        self,
        layer: int,
        rows: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        watch: bool = False,
        early: Early | None = None,
    ) -> Tensor:
        """Attend the new rows to memory, tail and themselves; the keys and values join the tail.

        Args:
            layer: Decoder layer.
            rows: (T',) int64, which rows of the segment are left, or None for all.
            q: (H, U, D) un-rotated queries of the last U rows.
            k: (G, T', D) un-rotated keys.
            v: (G, T', D) values.
            watch: Note how much attention the last row pays to every row.
            early: What was done with all T rows beforehand.

        Returns:
            (H, U, D).
        """

    def fork(self) -> Context:
        """A Context on the same past with the same rows so far; each goes its own way from here."""

    def finish(self) -> Span:
        """Hand over everything since the Context was read."""


@runtime_checkable
class Memory(Protocol[S]):
    """Keeps the past of one stream.

    ``kind`` is ``kv`` (rows stay in the decoder's cache) or ``tokens`` (visual tokens are stored and run again at
    question time, so pushing a frame skips the decoder).
    """

    kind: ClassVar[str]

    def init(self, spec: ModelSpec) -> S:
        """State of an empty memory."""

    def read(self, state: S, spec: ModelSpec, *, query: bool) -> Context:
        """Open a Context on the memory as it is now, for a question or for new frames. Never changes the state."""

    def write(self, state: S, span: Span) -> S:
        """Take the rows of a finished Context (or the tokens of a step) and forget what no longer fits."""

    def carry(self, segment: Segment) -> Segment:
        """Add rows of its own to the (T,) rows of a step, ids relative, before they are placed; most add none."""

    def recall(self, state: S) -> tuple[VisualTokens | Placed | Segment, ...]:
        """Say what a ``tokens`` memory wants run again, in the order to run it; empty for ``kv``."""

    def num_bytes(self, state: S) -> int:
        """Bytes held by the stream's past."""

    def bound_bytes(self, spec: ModelSpec) -> int | None:
        """Most bytes the memory will ever hold, None where it grows without end."""


@runtime_checkable
class Tiered(Protocol[S]):
    """A memory whose blocks may lie on a disk."""

    ram_blocks: int | None

    def house(self, state: S, disk: Any) -> S:
        """Let blocks that do not fit in memory go to a ``cache.Disk``, from the next write on."""


@runtime_checkable
class Steerable(Protocol):
    """A memory that looks frames up, and can be told which."""

    def read_frames(self, state: Any, spec: ModelSpec, frames: Sequence[int]) -> Context:
        """Open a Context for a question on these frames, by stream index; ValueError where one is not held."""


class Retriever(Protocol[S]):
    """Finds the blocks of the past that a question needs.

    Attributes:
        per_layer: It is asked in every layer, with that layer's queries, and may choose other blocks in each; otherwise
            once per question, with the rows that go into the decoder, and all layers see the same blocks.
    """

    per_layer: ClassVar[bool]

    def init(self, spec: ModelSpec) -> S:
        """State of an empty index; it has ``num_bytes``."""

    def add(self, state: S, number: int, block: Any, embeds: Tensor) -> S:
        """Index a block.

        Args:
            state: The index.
            number: The block's name, larger than those before.
            block: The sealed block (``cache.Sealed``): keys and values per layer, and what is known of its rows.
            embeds: (R, C) what went into the decoder for its rows.
        """

    def select(self, state: S, layer: int | None, q: Tensor, budget: int) -> Any:
        """Choose blocks for a question.

        Args:
            state: The index.
            layer: Decoder layer, None where it is asked once.
            q: (H, T, D) un-rotated queries of the question's rows, or, where it is asked once, their (T, C) embeddings.
            budget: Most blocks to choose.

        Returns:
            ``cache.Found``: names of the blocks, ascending, and what each was worth.
        """

    def drop(self, state: S, ids: Tensor) -> S:
        """Forget blocks by name."""


class Speaker(Protocol[S]):
    """Decides after every step whether the stream should say something by itself.

    A speaker that reads replies serves standing instructions: it has a state of its own for each, and is asked about
    each after every step, never otherwise. Any other is asked once per step; what it wants said it asks as a question.

    Attributes:
        reads_hidden: It wants the step's hidden rows.
        reads_reply: It wants the reply to a standing instruction.
    """

    reads_hidden: ClassVar[bool]
    reads_reply: ClassVar[bool]

    def init(self, spec: ModelSpec) -> S:
        """State before the first frame, or of a new standing instruction."""

    def step(self, state: S, seen: Observation) -> tuple[S, Decision]:
        """Look at one step, or at one reply after it."""
