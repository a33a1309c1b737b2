"""The chat template cut into pieces: put together again they are what the template writes."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken

from headrace.backbones import plain
from headrace.backbones.chat import plain_template, read_chat
from parity.models import WORDS

# How the families we know write a conversation; part[0] is where the video stands.
CHATML = (
    "{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- for part in message['content'] %}"
    "{%- if part['type'] == 'video' %}{{ '<video>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{%- endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'USER: ' }}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endfor %}{{ ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'][0]['text'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)
TRUE_TO_THE_ANSWER = {"chatml": CHATML, "vicuna": VICUNA}
ALL = {**TRUE_TO_THE_ANSWER, "released": plain.CHAT_TEMPLATE}


def tokenizer(template: str | None):
    made = plain.word_tokenizer(WORDS)
    made.chat_template = template
    return made


def user(text: str, *, clip: bool):
    return {"role": "user", "content": [*([{"type": "video"}] if clip else []), {"type": "text", "text": text}]}


def assistant(text: str):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def render(template: str, *messages) -> str:
    return tokenizer(template).apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("text", ["What is this?", "two\nlines", "{{ braces }} & <tags>", "é€😀", "headrace"])
def test_the_first_question(name, text):
    chat = read_chat(tokenizer(ALL[name]), video="<video>")
    whole = chat.prefix + "<video>" + chat.question(text, answered=False)
    assert whole == render(ALL[name], user(text, clip=True))


def test_control_tokens_that_were_added_are_control_tokens():
    """A conversion adds them without listing them among the special ones."""
    made = tokenizer(ALL["released"])
    made.add_tokens([AddedToken("<image>", special=True), AddedToken("<row_1_col_1>", special=True), "plainword"])
    chat = read_chat(made, video="<video>")
    for token in ("<image>", "<row_1_col_1>", "<video>"):
        with pytest.raises(ValueError, match=f"holds {token!r}, a control token"):
            chat.question(f"what is {token}", answered=False)
    assert "plainword" in chat.question("what is plainword", answered=False)


@pytest.mark.parametrize("name", TRUE_TO_THE_ANSWER)
@pytest.mark.parametrize("clip", [True, False])
def test_what_follows_an_answer(name, clip):
    template = ALL[name]
    chat = read_chat(tokenizer(template), video="<video>")
    whole = chat.prefix + "<video>" + chat.question("one", answered=False) + "an answer"
    if clip:
        whole += chat.reopen + "<video>" + chat.question("two", answered=False)
    else:
        whole += chat.question("two", answered=True)
    assert whole == render(template, user("one", clip=True), assistant("an answer"), user("two", clip=clip))


@pytest.mark.parametrize("clip", [True, False])
def test_the_released_template_differs_only_in_the_white_space_before_an_answer(clip):
    """It prompts with no space after ``assistant`` and writes a past answer with one; a stream keeps its prompt."""
    chat = read_chat(tokenizer(plain.CHAT_TEMPLATE), video="<video>")
    whole = chat.prefix + "<video>" + chat.question("one", answered=False) + "an answer"
    if clip:
        whole += chat.reopen + "<video>" + chat.question("two", answered=False)
    else:
        whole += chat.question("two", answered=True)
    written = render(plain.CHAT_TEMPLATE, user("one", clip=True), assistant("an answer"), user("two", clip=clip))
    assert whole == written.replace("assistant \nan answer", "assistant\nan answer")


TRIMMING = {"nothing": "", "trim": " | trim", "left": ".lstrip()", "right": ".rstrip()"}


@pytest.mark.parametrize("trimmed", TRIMMING)
@pytest.mark.parametrize("text", ["  what?\n", "what?", "\twhat?", "what? ", "\n\n"])
def test_white_space_around_a_question_stays_where_the_template_leaves_it(trimmed, text):
    template = CHATML.replace("{{ part['text'] }}", "{{ (part['text'])" + TRIMMING[trimmed] + " }}")
    chat = read_chat(tokenizer(template), video="<video>")
    whole = chat.prefix + "<video>" + chat.question(text, answered=False)
    assert whole == render(template, user(text, clip=True))


@pytest.mark.parametrize("several", [dict, list])
def test_of_several_templates_the_default_is_taken(several):
    named = {"default": CHATML, "tool_use": "x"}
    found = named if several is dict else [{"name": name, "template": text} for name, text in named.items()]
    made = tokenizer(CHATML)
    want = read_chat(made, video="<video>")
    made.chat_template = found
    assert read_chat(made, video="<video>") == want


@pytest.mark.parametrize("found", [{"tool_use": "x", "rag": "y"}, [{"name": "rag", "template": "x"}]])
def test_several_templates_without_a_default_are_named(found):
    with pytest.raises(
        ValueError, match=r"^chat template: there is one for (tool_use, )?rag, but none called default$"
    ):
        read_chat(tokenizer(found), video="<video>")


@pytest.mark.parametrize("found", [["x"], [{"name": "default"}], [3]])
def test_a_list_that_is_none_of_templates_is_one_line(found):
    with pytest.raises(ValueError, match=r"^chat template: a list must be of names and templates$"):
        plain_template(found)


@pytest.mark.parametrize("token", ["<video>", "<image>", "<|im_start|>", "<|im_end|>", "<|pad|>"])
@pytest.mark.parametrize("answered", [False, True])
def test_control_tokens_in_a_question_are_refused(token, answered):
    chat = read_chat(tokenizer(CHATML), video="<video>")
    with pytest.raises(ValueError, match="control token") as raised:
        chat.question(f"say{token}now", answered=answered)
    assert token in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "template",
    [
        None,
        "",
        "no video, no question",
        "{{ '<video><video>' }}{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'][-1]['text'] + '<video>' + m['content'][-1]['text'] }}{% endfor %}",
        "{{ raise_exception('only text') }}",
        "{% for m in messages %}{{ m['content'] + 'x' }}{% endfor %}",
        "{% for",
    ],
)
def test_a_template_that_cannot_be_used_is_one_clear_line(template):
    with pytest.raises(ValueError, match=r"^chat template: ") as raised:
        read_chat(tokenizer(template), video="<video>")
    assert "\n" not in str(raised.value)
