"""What of a prompt is optimised: its hidden states, or the vectors of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPTextModel, CLIPTokenizer

if TYPE_CHECKING:
    from invcap.prompt_inversion.pipeline import PromptInversionPipeline

Over = Literal["hidden_states", "token_vectors", "tokens"]
WORD_END = "</w>"
ONE_LETTER_WORDS = ("a", "i")
HiddenOf = Callable[[Tensor, Tensor], Tensor]


def parametrise(
    pipeline: PromptInversionPipeline,
    starts: Sequence[str] | Tensor,
    over: Over,
    axes: Tensor | None = None,
) -> tuple[Tensor, HiddenOf]:
    """The vectors of P prompts to optimise, and the way from them to hidden states.

    Over "tokens", the text encoder sees the tokens nearest to the vectors, and gradients pass as if
    it had seen the vectors.

    Args:
        starts: P sentences; over hidden states also those themselves, (P, 77, d).
        axes: (d, d), orthonormal columns, along which hidden states are optimised.

    Returns:
        Vectors (P, N, d) float32: hidden states along the axes, N = 77, or one for each token of
        the sentences. A differentiable function of some pictures' vectors (A, N, d), and which of
        the P these are (A,), to their hidden states (A, 77, d) float32.

    Raises:
        ValueError: `over` or a sentence cannot be used, or tokens are to be optimised and the
            sentences have different numbers of them.

    Source: over tokens, Wen et al., "Hard prompts made easy" (2023), algorithm 1 (PEZ).
    """
    if over not in get_args(Over):
        raise ValueError(f"over must be one of {get_args(Over)}, got {over!r}")
    if over == "hidden_states":
        vectors = starts if isinstance(starts, Tensor) else pipeline.encode_prompts(starts)
        if axes is None:
            return vectors, lambda vectors, rows: vectors
        return vectors @ axes, lambda vectors, rows: vectors @ axes.T
    if isinstance(starts, Tensor):
        raise ValueError(f"start must be sentences over {over!r}, got hidden states")
    for start in starts:
        pipeline.check_prompt(start)
    tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder
    counts = {len(tokenizer(start).input_ids) - 2 for start in starts}
    if len(counts) > 1:
        raise ValueError(
            f"start must have equally many tokens for all pictures, got {sorted(counts)}"
        )
    ids = tokenizer(list(starts), padding="max_length", return_tensors="pt").input_ids
    ids = ids.to(text_encoder.device)
    within = slice(1, 1 + counts.pop())
    vectors = text_encoder.get_input_embeddings()(ids[:, within])

    def hidden_of(vectors: Tensor, rows: Tensor) -> Tensor:
        if over == "tokens":
            _, nearest = nearest_tokens(pipeline, vectors.detach())
            vectors = vectors + (nearest[..., 0, :] - vectors).detach()
        with replaced_embeddings(text_encoder, within, vectors):
            return text_encoder(ids[rows])[0].float().cpu()

    return vectors.float().cpu(), hidden_of


def nearest_tokens(
    pipeline: PromptInversionPipeline, vectors: Tensor, count: int = 1
) -> tuple[Tensor, Tensor]:
    """The words whose vectors are nearest to some, by cosine, nearest first.

    Args:
        vectors: (..., d).
        count: of words for each.

    Returns:
        The numbers of their tokens (..., count) and their vectors (..., count, d).
    """
    words = word_tokens(pipeline.tokenizer)
    table = pipeline.text_encoder.get_input_embeddings().weight.float().cpu()
    similarity = normalize(vectors, dim=-1) @ normalize(table[words], dim=-1).T
    ids = words[similarity.topk(count, dim=-1).indices]
    return ids, table[ids]


def word_tokens(tokenizer: CLIPTokenizer) -> Tensor:
    """The numbers of the tokens that are whole words of letters: no parts of words, no bytes."""
    found = []
    for token, index in tokenizer.get_vocab().items():
        word = token.removesuffix(WORD_END)
        whole = word != token and word.isascii() and word.isalpha()
        if whole and (len(word) > 1 or word in ONE_LETTER_WORDS):
            found.append(index)
    return torch.tensor(sorted(found))


@contextmanager
def replaced_embeddings(
    text_encoder: CLIPTextModel, within: slice, vectors: Tensor
) -> Iterator[None]:
    """Lets a text encoder see vectors (A, n, d) at the positions `within` of its A prompts."""

    def replace(module: nn.Module, arguments: Any, embedded: Tensor) -> Tensor:
        changed = embedded.clone()
        changed[:, within] = vectors.to(embedded)
        return changed

    handle = text_encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
