"""The words of a model's vocabulary, and the nearest words to given vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from invcap.diffusion.model import FrozenTextToImage


@dataclass(frozen=True)
class Words:
    """The tokens that are whole words.

    Attributes:
        ids: their token ids, (W,).
        vectors: (W, d) float32.
    """

    ids: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, model: FrozenTextToImage) -> Words:
        """The words of a model, on its device."""
        table = model.token_table
        ids = torch.tensor(model.word_tokens, device=table.device)
        return cls(ids, table[ids])

    def nearest(self, vectors: Tensor, count: int = 1) -> Tensor:
        """Indices (..., count) of the words nearest to vectors (..., d) by cosine, in order."""
        similarity = normalize(vectors, dim=-1) @ normalize(self.vectors, dim=-1).T
        return similarity.topk(count, dim=-1).indices


def read_vectors(model: FrozenTextToImage, vectors: Tensor) -> list[str]:
    """Reads token vectors (P, n, d) as the nearest words."""
    words = Words.of(model)
    found = words.nearest(vectors.to(words.ids.device))
    return model.read_tokens(words.ids[found[..., 0]])
