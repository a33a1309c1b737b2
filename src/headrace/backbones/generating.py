"""What a checkpoint says of generating: where an answer ends, the repetition penalty, and what is not followed."""

from __future__ import annotations

import logging
from typing import Any

_log = logging.getLogger("headrace.backbones")

# settings that change what ``generate`` says greedily, and are not followed here; with the value that changes nothing
UNFOLLOWED: dict[str, Any] = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "sequence_bias": None,
    "stop_strings": None,
    "suppress_tokens": None,
    "watermarking_config": None,
}


def read_penalty(generation: Any) -> float:
    """What a checkpoint asks for, 1 where it asks for nothing."""
    return float(getattr(generation, "repetition_penalty", None) or 1.0)


def read_stops(generation: Any, text: Any, tokenizer: Any) -> tuple[int, ...]:
    """Collect every id that ends an answer, ascending.

    Args:
        generation: transformers' generation configuration, or None. The ids it names are those ``generate`` stops at.
        text: Configuration of the decoder, for a checkpoint whose generation configuration names none: it may be a
            default of its class, which means something else in this vocabulary.
        tokenizer: Its end of text counts in any case; as the first token it means silence.
    """
    named = _ids(getattr(generation, "eos_token_id", None)) or _ids(text.eos_token_id)
    return tuple(sorted(named | _ids(tokenizer.eos_token_id)))


def _ids(ids: list[int] | int | None) -> set[int]:
    return set() if ids is None else set(ids) if isinstance(ids, list) else {ids}


def warn_unfollowed(generation: Any, name: str) -> None:
    """Say in one line which settings of a checkpoint are not followed; nothing where there are none.

    Args:
        generation: transformers' generation configuration, or None.
        name: Of the model.
    """
    values = {field: getattr(generation, field, None) for field in UNFOLLOWED}
    found = [field for field, value in values.items() if value not in (None, UNFOLLOWED[field], [], {})]
    if found:
        _log.warning(
            "model %r: its generation settings have %s, which is not followed: answers may differ from generate's",
            name,
            ", ".join(found),
        )
