"""What a captioner does on pictures it has not seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invcap.captioning.model import InvertibleCaptioner, squared_distances
from invcap.captioning.pairs import Pairs

QUERIES_AT_ONCE = 1024


@torch.no_grad()
def evaluate(model: InvertibleCaptioner, held_out: Pairs) -> dict[str, Any]:
    """Measures both directions of a captioner on held-out pairs.

    Returns:
        "caption": mean squared error between f(latent) and the caption's embedding, over pairs;
        shares of pictures with one of their own captions nearest of all (`r_at_1`), and among
        the ten nearest. "generation": the same of f^-1(embedding) and the picture's latent, each
        caption retrieving among all pictures. "round_trip": max |f^-1(f(x)) - x|. Latents and
        embeddings have unit variance, so that 1 is what always answering the mean gets.
    """
    x = model.latents(held_out.latents)
    e = model.embeddings(held_out.embeddings)
    picture, caption = held_out.picture, held_out.caption
    found, drawn = model.network(x), model.network.inverse(e)
    return {
        "caption": {
            "mse": F.mse_loss(found[picture], e[caption]).item(),
            **_recall(found, e, picture, caption),
        },
        "generation": {
            "latent_mse": F.mse_loss(drawn[caption], x[picture]).item(),
            **_recall(drawn, x, caption, picture),
        },
        "round_trip": {"max_abs_error": (model.network.inverse(found) - x).abs().max().item()},
    }


def _recall(queries: Tensor, targets: Tensor, query: Tensor, target: Tensor) -> dict[str, float]:
    """Shares of queries with one of their targets, as pairs (query, target) say, nearest."""
    own = torch.zeros(len(queries), len(targets), dtype=torch.bool)
    own[query, target] = True
    nearest = torch.cat(
        [
            squared_distances(some, targets).topk(min(10, len(targets)), largest=False).indices
            for some in queries.split(QUERIES_AT_ONCE)
        ]
    )
    hits = own.gather(1, nearest)
    return {
        "r_at_1": hits[:, 0].float().mean().item(),
        "r_at_10": hits.any(1).float().mean().item(),
    }
