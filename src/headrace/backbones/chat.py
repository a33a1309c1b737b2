"""The chat template of a checkpoint, cut into the pieces a stream needs.

A template writes whole conversations; a stream writes them as they happen. Rendering a few conversations once, with a
marker for every part that varies, tells what stands between the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_FIRST, _ANSWER, _SECOND = "headracefirst", "headraceanswer", "headracesecond"


@dataclass(frozen=True, slots=True)
class Chat:
    """The text around frames, questions and answers.

    Attributes:
        prefix: Before the first frame of the conversation.
        before: Between the last frame of a clip and the question.
        after: Between the question and the answer.
        reopen: Between an answer and the first frame of the next clip.
        again: Between an answer and a question with no frames between them.
        special: Strings a question must not hold, because the model reads them as control tokens.
    """

    prefix: str
    before: str
    after: str
    reopen: str
    again: str
    special: tuple[str, ...]

    def question(self, text: str, *, answered: bool) -> str:
        """Write a question as the template would, up to where the answer starts.

        Raises:
            ValueError: The question holds one of the model's control tokens.
        """
        for token in self.special:
            if token in text:
                raise ValueError(f"question: holds {token!r}, a control token of this model; leave it out")
        between = self.again if answered else self.before
        return between + text.strip() + self.after


def read_chat(tokenizer: Any, *, video: str, template: str | None = None) -> Chat:
    """Cut a chat template into pieces.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        video: The text a video stands for in the rendered template, e.g. ``<video>``.
        template: The template, None for the tokenizer's own.

    Raises:
        ValueError: The template is missing or does not write a video and then the question.
    """
    template = template or getattr(tokenizer, "chat_template", None)
    if not template:
        raise ValueError("chat template: the tokenizer has none; add chat_template.jinja to the folder")

    def render(*messages: dict[str, Any]) -> str:
        try:
            written = tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=True
            )
            return str(written)
        except Exception as error:  # a template is a program; it may fail in any way
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"chat template: cannot write a conversation about a video ({why})") from None

    def user(text: str, *, clip: bool) -> dict[str, Any]:
        parts = [{"type": "video"}] if clip else []
        return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}

    answer = {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]}
    one = render(user(_FIRST, clip=True))
    with_clip = render(user(_FIRST, clip=True), answer, user(_SECOND, clip=True))
    without = render(user(_FIRST, clip=True), answer, user(_SECOND, clip=False))
    try:
        whole, after = one.split(_FIRST)
        prefix, before = whole.split(video)
        reopen = with_clip.split(_ANSWER)[1].split(video)[0]
        again = without.split(_ANSWER)[1].split(_SECOND)[0]
    except (ValueError, IndexError):
        raise ValueError(f"chat template: does not put {video!r} once before the question") from None
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special = tuple(sorted({*tokenizer.all_special_tokens, *added, video}))
    return Chat(prefix=prefix, before=before, after=after, reopen=reopen, again=again, special=special)
