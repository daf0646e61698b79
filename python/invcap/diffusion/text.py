"""Inputs of text encoders: words, their number, and vectors in place of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

ONE_LETTER_WORDS = ("a", "i")


def check_has_words(prompt: str) -> None:
    """Raises ValueError if a prompt is empty."""
    if not prompt.strip():
        raise ValueError(f"a prompt must have words, got {prompt!r}")


def check_length(prompt: str, tokenizer: Any, most: int) -> None:
    """Raises ValueError if a prompt has no words, or more tokens than a text encoder takes."""
    check_has_words(prompt)
    count = len(_counter(tokenizer)(prompt).input_ids)
    if count > most:
        raise ValueError(
            f"a prompt has at most {most} tokens with start and end, got {count}: {prompt!r}"
        )


@lru_cache(maxsize=8)
def _counter(tokenizer: Any) -> Any:
    """A copy that only counts: a tokenizer keeps its padding from call to call, for all threads."""
    return deepcopy(tokenizer)


def word_tokens(tokenizer: Any, start: str = "", end: str = "") -> Sequence[int]:
    """The numbers of the tokens that are whole words, sorted: no parts of words, no bytes.

    Args:
        start, end: what the vocabulary puts before and after a word.
    """
    found = []
    for token, number in tokenizer.get_vocab().items():
        word = token.removeprefix(start).removesuffix(end)
        whole = len(token) == len(start + word + end) and word.isascii() and word.isalpha()
        if whole and (len(word) > 1 or word.lower() in ONE_LETTER_WORDS):
            found.append(number)
    return sorted(found)


def run_clip(tokenizer: Any, text_encoder: Any, vectors: Tensor) -> Any:
    """What a CLIP text encoder makes of N prompts of n tokens, given by vectors (N, n, d)."""
    count = vectors.shape[1]
    shape = (len(vectors), tokenizer.model_max_length)
    ids = torch.full(shape, tokenizer.pad_token_id, device=vectors.device)
    ids[:, : 1 + count], ids[:, 1 + count] = tokenizer.bos_token_id, tokenizer.eos_token_id
    with _replaced_embeddings(text_encoder, slice(1, 1 + count), vectors):
        return text_encoder(ids, output_hidden_states=True)


def embed_around(text_encoder: Any, before: Tensor, vectors: Tensor, after: Tensor) -> Tensor:
    """The embeddings (N, m, d) of tokens, vectors in place of tokens, and tokens again.

    Args:
        before, after: numbers of tokens, (k,).
        vectors: (N, n, d).
    """
    table = text_encoder.get_input_embeddings().weight
    around = [
        table[ids.to(table.device)].to(vectors.device).expand(len(vectors), -1, -1)
        for ids in (before, after)
    ]
    return torch.cat([around[0], vectors.to(table.dtype), around[1]], 1)


@contextmanager
def _replaced_embeddings(text_encoder: Any, positions: slice, vectors: Tensor) -> Iterator[None]:
    def replace(module: nn.Module, arguments: Any, embedded: Tensor) -> Tensor:
        changed = embedded.clone()
        changed[:, positions] = vectors.to(embedded)
        return changed

    handle = text_encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
