"""A tokenizer of whole words, with a family's control tokens and chat template."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN = "<|pad|>", "<|unk|>"


def build_tokenizer(
    words: Sequence[str], *, special: Sequence[str], eos: str, template: str
) -> PreTrainedTokenizerFast:
    """Build a tokenizer that knows whole lower-case words.

    Args:
        words: The vocabulary behind the control tokens.
        special: Control tokens; the first two are ``PAD`` and ``UNKNOWN``. A token's place here is its id.
        eos: The one of them that ends a turn.
        template: The chat template.

    Returns:
        A fast tokenizer; white space separates words, case and punctuation are ignored, unknown words become
        ``<|unk|>``.
    """
    assert tuple(special[:2]) == (PAD, UNKNOWN)
    vocab = {word: i for i, word in enumerate(dict.fromkeys((*special, *words)))}
    backend = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex("[?.,!:;\"']"), " ")])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=eos,
        additional_special_tokens=[token for token in special[2:] if token != eos],
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )
    tokenizer.chat_template = template
    return tokenizer
