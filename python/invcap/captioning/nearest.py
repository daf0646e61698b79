"""Nearest-neighbour search among embeddings: exact, or with an index for very many."""

from __future__ import annotations

from math import ceil, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invcap.captioning.scaler import Scaler
from invcap.captioning.similarity import similarities
from invcap.files import replacing

EXACT_UP_TO = 100_000
AT_ONCE = 65_536
COMPARED = 128
ROWS_A_LIST = 64
SHARE_LOOKED_THROUGH = 1 / 16
LEAST_LOOKED_THROUGH = 8


def nearest(
    queries: Tensor, embeddings: Tensor, scaler: Scaler, top_k: int
) -> tuple[Tensor, Tensor]:
    """The embeddings nearest to each query by the cosine, a part of them at a time.

    Args:
        queries: standardized, (Q, k).
        embeddings: (N, d), as the sentence encoder gives them.
        scaler: to k standardized coordinates, on the queries' device.

    Returns:
        Cosines and numbers of rows, (Q, top_k), best first.
    """
    parts = [similarities(queries, scaler(part.to(queries))) for part in embeddings.split(AT_ONCE)]
    found = torch.cat(parts, 1).topk(top_k)
    return found.values, found.indices


class NearestIndex:
    """Inverted lists of faiss, with 8 bits a number: a query looks through a sixteenth of them.

    Args:
        index: of faiss, of standardized rows at unit norm.
    """

    def __init__(self, index: Any) -> None:
        self.index = index

    @classmethod
    def build(cls, embeddings: Tensor, scaler: Scaler) -> NearestIndex:
        """Puts embeddings, (N, d), into as many lists as the root of their number."""
        import faiss

        def rows(some: Tensor) -> Any:
            return F.normalize(scaler(some.to(scaler.mean)), dim=1).cpu().numpy()

        lists = ceil(sqrt(len(embeddings)))
        index = faiss.index_factory(scaler.features, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        every = max(1, len(embeddings) // (ROWS_A_LIST * lists))
        index.train(rows(embeddings[::every]))
        for part in embeddings.split(AT_ONCE):
            index.add(rows(part))
        looked_through = max(LEAST_LOOKED_THROUGH, ceil(SHARE_LOOKED_THROUGH * lists))
        faiss.ParameterSpace().set_index_parameter(index, "nprobe", looked_through)
        return cls(index)

    def nearest(
        self, queries: Tensor, embeddings: Tensor, scaler: Scaler, top_k: int
    ) -> tuple[Tensor, Tensor]:
        """Like the function `nearest`, but may miss some neighbours; cosines are exact."""
        wanted = min(max(COMPARED, 4 * top_k), len(embeddings))
        _, found = self.index.search(F.normalize(queries, dim=1).cpu().numpy(), wanted)
        cosines, numbers = [], []
        for query, row in zip(queries, torch.from_numpy(found), strict=True):
            some = row[row >= 0]
            if len(some) < top_k:
                return nearest(queries, embeddings, scaler, top_k)
            own = similarities(query[None], scaler(embeddings[some].to(queries)))[0].topk(top_k)
            cosines.append(own.values)
            numbers.append(some.to(queries.device)[own.indices])
        return torch.stack(cosines), torch.stack(numbers)

    def save(self, path: Path) -> None:
        """Writes the index in faiss's own format."""
        import faiss

        with replacing(path) as temporary:
            faiss.write_index(self.index, str(temporary))

    @classmethod
    def load(cls, path: Path) -> NearestIndex:
        """Reads what `save` wrote."""
        import faiss

        return cls(faiss.read_index(str(path)))
