"""Token vectors read as the words whose vectors are nearest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPTokenizer

from invcap.diffusion.model import FrozenTextToImage

WORD_END = "</w>"
ONE_LETTER_WORDS = ("a", "i")


def nearest_tokens(
    model: FrozenTextToImage, vectors: Tensor, count: int = 1
) -> tuple[Tensor, Tensor]:
    """The words whose vectors are nearest to some, by cosine, nearest first.

    Args:
        vectors: (..., d).
        count: of words for each.

    Returns:
        The numbers of their tokens (..., count) and their vectors (..., count, d).
    """
    words = word_tokens(model.tokenizer).to(vectors.device)
    table = model.token_table.to(vectors.device)
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


def read_tokens(model: FrozenTextToImage, vectors: Tensor) -> list[str]:
    """Says token vectors (P, n, d) in the words that are nearest."""
    ids, _ = nearest_tokens(model, vectors)
    return [text.strip() for text in model.tokenizer.batch_decode(ids[..., 0])]
