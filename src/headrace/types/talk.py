"""Questions, answers, and what the stream says by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Real

from torch import Tensor

from headrace.types.rows import Moment
from headrace.types.visual import VisualTokens


@dataclass(frozen=True, slots=True)
class Query:
    """A question and how to decode its answer.

    Attributes:
        text: The question.
        max_tokens: Longest answer, in tokens, a whole number >= 1.
        temperature: 0 takes the likeliest token; above 0 samples.
        top_p: Sample from the smallest set of tokens with at least this probability, 0 < top_p <= 1.
        repetition_penalty: Divides the scores (multiplies those below 0) of tokens that stand in the text so far
            (prefix, frames, remembered turns, question, answer), > 0; 1 leaves them, None takes the checkpoint's own.
        seed: Seed of the sampling, 0 <= seed < 2**63; the same seed gives the same answer.
        stop: Strings that end the answer, or one; they are not part of it.
        remember: Write the question and the answer into the stream's memory.
        evidence: How many moments to name.
        frames: Stream indices of the frames that the memory shall bring back, whatever it would look up; empty for what
            it looks up.
    """

    text: str
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float | None = None
    seed: int = 0
    stop: tuple[str, ...] | str = ()
    remember: bool = False
    evidence: int = 3
    frames: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise ValueError("question: is empty; give a question in words")
        _check_text(self.text)
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        for name in ("max_tokens", "seed", "evidence"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name}: must be a whole number, not {value!r}")
        for name in ("temperature", "top_p", "repetition_penalty"):
            value = getattr(self, name)
            left_open = value is None and name == "repetition_penalty"
            if isinstance(value, bool) or not (left_open or isinstance(value, Real)):
                raise ValueError(f"{name}: must be a number, not {value!r}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed: must be from 0 to 2**63 - 1, not {self.seed}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: must be at least 1, not {self.max_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: must be above 0 and at most 1, not {self.top_p}")
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty: must be above 0, not {self.repetition_penalty}")
        if self.evidence < 0:
            raise ValueError(f"evidence: must be 0 or more, not {self.evidence}")
        try:
            frames = tuple(self.frames)
            good = not any(isinstance(x, bool) or not isinstance(x, int) or x < 0 for x in frames)
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"frames: must be stream indices, whole numbers from 0, not {self.frames!r}")
        object.__setattr__(self, "frames", tuple(sorted(set(frames))))


@dataclass(frozen=True, slots=True)
class Token:
    """One decoded token: its vocabulary id, and the text that became certain with it.

    Text that was held back to the end comes last, with the id -1.
    """

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and what it cost.

    Attributes:
        question: The question.
        text: The answer.
        tokens: Vocabulary ids of the answer, without the stop id.
        time_s: Stream time of the last frame seen, -1 before the first.
        frames_seen: Frames that had been pushed when it was asked.
        first_token_ms: From the question to the first token.
        total_ms: From the question to the end.
        prompt_rows: Decoder rows that were run for the question.
        finish: ``stop`` or ``length``.
        evidence: The frames the prompt's last row paid most attention to.
    """

    question: str
    text: str
    tokens: tuple[int, ...]
    time_s: float
    frames_seen: int
    first_token_ms: float
    total_ms: float
    prompt_rows: int
    finish: str
    evidence: tuple[Moment, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What one step (one or several frames) cost.

    Attributes:
        frames: Stream indices of the step's frames.
        time_s: Time of the last of them.
        tokens_in: Visual tokens before the compressor.
        tokens_kept: Visual tokens after it.
        stage_ms: Milliseconds per stage: ``encode`` (pixels included), ``compress``, ``prefill``, ``speak``.
        memory_bytes: Bytes the memory holds after the step.
        spent: Share of a dense vision tower's work that the step took, None where the encoder does not say.
    """

    frames: tuple[int, ...]
    time_s: float
    tokens_in: int
    tokens_kept: int
    stage_ms: dict[str, float] = field(default_factory=dict)
    memory_bytes: int = 0
    spent: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """How the model would begin to answer a standing instruction right now.

    Attributes:
        instruction: The instruction's text.
        logits: (V,) scores of the reply's first token.
        stop_ids: Vocabulary ids that end an answer; as the first token they mean silence.
    """

    instruction: str
    logits: Tensor
    stop_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What a speaker sees after a step.

    Attributes:
        frame: Stream index of the last frame.
        time_s: Its time in seconds.
        hidden: (T, D) last hidden rows of the step, or None when the speaker did not ask for them.
        tokens: Visual tokens of the step after compression.
        reply: The reply to a standing instruction, or None when the speaker does not read replies.
    """

    frame: int
    time_s: float
    hidden: Tensor | None
    tokens: VisualTokens
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A speaker's verdict: whether to speak now, what to ask the model, and how sure it is (0..1)."""

    speak: bool = False
    prompt: str = ""
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something the stream said by itself.

    Attributes:
        time_s: Stream time in seconds.
        decision: Why it spoke.
        answer: What it said.
        number: The standing instruction that came true, 0 where the speaker asked a question of its own.
    """

    time_s: float
    decision: Decision
    answer: Answer
    number: int = 0

    @property
    def instruction(self) -> str:
        """What was asked of the model: the standing instruction, or the speaker's question."""
        return self.answer.question


def _check_text(text: str) -> None:
    """Refuse what no tokenizer takes: bytes that were no UTF-8 when a program read them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"question: {text!r} holds bytes that are no UTF-8; give it in UTF-8") from None
