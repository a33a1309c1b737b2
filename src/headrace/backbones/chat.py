"""The chat template of a checkpoint, cut into the pieces a stream needs.

A template writes whole conversations; a stream writes them as they happen. Rendering a few conversations once, with a
marker for every part that varies, tells what stands between the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_FIRST, _ANSWER, _SECOND = "headracefirst", "headraceanswer", "headracesecond"
_SPACE = " \n"


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
        trims: Whether the template takes white space from the beginning and from the end of a question.
    """

    prefix: str
    before: str
    after: str
    reopen: str
    again: str
    special: tuple[str, ...]
    trims: tuple[bool, bool]

    def question(self, text: str, *, answered: bool) -> str:
        """Write a question as the template would, white space around it included, up to where the answer starts.

        Raises:
            ValueError: The question holds one of the model's control tokens.
        """
        for token in self.special:
            if token in text:
                raise ValueError(f"question: holds {token!r}, a control token of this model; leave it out")
        between = self.again if answered else self.before
        text = text.lstrip() if self.trims[0] else text
        return between + (text.rstrip() if self.trims[1] else text) + self.after


def plain_template(found: Any) -> str | None:
    """Choose the template of conversations among those a file or a tokenizer has.

    Args:
        found: One template; several by name, as a dict or as transformers lists them in JSON; or None.

    Returns:
        The one template, or of several the one called ``default``, as transformers does; None where there is none.

    Raises:
        ValueError: There are several, and none is called so.
    """
    if isinstance(found, list):
        try:
            found = {one["name"]: one["template"] for one in found}
        except (KeyError, TypeError):
            raise ValueError("chat template: a list must be of names and templates") from None
    if not isinstance(found, dict):
        return found if isinstance(found, str) else None
    default = found.get("default")
    if found and not isinstance(default, str):
        raise ValueError(f"chat template: there is one for {', '.join(map(str, found))}, but none called default")
    return default


def read_chat(tokenizer: Any, *, video: str, template: str | None = None) -> Chat:
    """Cut a chat template into pieces.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        video: The text a video stands for in the rendered template, e.g. ``<video>``.
        template: The template, None for the tokenizer's own.

    Raises:
        ValueError: The template is missing or does not write a video and then the question.
    """
    template = template or plain_template(getattr(tokenizer, "chat_template", None))
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
    one, spaced = (render(user(text, clip=True)) for text in (_FIRST, _SPACE + _FIRST + _SPACE))
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
    trims = (before + _SPACE + _FIRST not in spaced, _FIRST + _SPACE + after not in spaced)
    return Chat(prefix=prefix, before=before, after=after, reopen=reopen, again=again, special=special, trims=trims)
