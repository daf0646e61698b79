"""Sentences found for images, with their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invcap.captioning.similarity import similarities


@dataclass(frozen=True)
class Caption:
    """A sentence found for an image.

    Attributes:
        text: the sentence.
        score: the cosine between its embedding and the image's, both standardized: 1 for a
            perfect match, about 0 for unrelated sentences.
    """

    text: str
    score: float


def captions(cosines: Tensor, numbers: Tensor, texts: Sequence[str]) -> list[list[Caption]]:
    """Some of the texts, by their numbers (P, K), with their cosines."""
    return [
        [Caption(texts[i], score) for score, i in zip(scores, row, strict=True)]
        for scores, row in zip(cosines.tolist(), numbers.tolist(), strict=True)
    ]


def ranked(
    embeddings: Tensor,
    texts: Sequence[Sequence[str]],
    embed: Callable[[list[str]], Tensor],
    top_k: int,
) -> list[list[Caption]]:
    """The nearest of each embedding's own texts, at most top_k different ones, best first.

    Args:
        embeddings: (P, k).
        texts: P lists.
        embed: sentences to embeddings, (N, k).
    """
    every = list(dict.fromkeys(text for own in texts for text in own))
    row = {text: number for number, text in enumerate(every)}
    targets = embed(every)
    found = []
    for embedding, own in zip(embeddings, texts, strict=True):
        numbers = torch.tensor(list({row[text]: None for text in own}), device=targets.device)
        cosines, best = similarities(embedding[None], targets[numbers]).topk(
            min(top_k, len(numbers))
        )
        found += captions(cosines, numbers[best], every)
    return found
