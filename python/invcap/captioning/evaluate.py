"""What a captioner does on images it has not seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invcap.captioning.model import InvertibleCaptioner, squared_distances
from invcap.captioning.pairs import Pairs, in_memory

DISTANCES_AT_ONCE = 2**24


@torch.no_grad()
def evaluate(model: InvertibleCaptioner, held_out: Pairs) -> dict[str, Any]:
    """Measures both directions of a captioner on held-out pairs.

    Returns:
        "caption": mean squared error between f(latent) and the caption's embedding, over pairs;
        shares of images with one of their own captions nearest of all (`r_at_1`), and among
        the ten nearest. "generation": the same of f^-1(embedding) and the image's latent, each
        caption retrieving among all images. "round_trip": max |f^-1(f(x)) - x|. Latents and
        embeddings have unit variance, so that 1 is what always answering the mean gets.
    """
    device = model.device
    x = model.latent_scaler(in_memory(held_out.latents).to(device))
    e = model.embedding_scaler(in_memory(held_out.embeddings).to(device))
    image, caption = held_out.image.to(device), held_out.caption.to(device)
    found, drawn = model.network(x), model.network.inverse(e)
    return {
        "caption": {
            "mse": F.mse_loss(found[image], e[caption]).item(),
            **_recall(found, e, image, caption),
        },
        "generation": {
            "latent_mse": F.mse_loss(drawn[caption], x[image]).item(),
            **_recall(drawn, x, caption, image),
        },
        "round_trip": {"max_abs_error": (model.network.inverse(found) - x).abs().max().item()},
    }


def _recall(queries: Tensor, targets: Tensor, query: Tensor, target: Tensor) -> dict[str, float]:
    """Shares of queries with one of their targets, as pairs (query, target) say, nearest."""
    own = query * len(targets) + target
    hits = []
    numbers = torch.arange(len(queries), device=queries.device)
    for some in numbers.split(max(1, DISTANCES_AT_ONCE // len(targets))):
        nearest = squared_distances(queries[some], targets).topk(
            min(10, len(targets)), largest=False
        )
        hits.append(torch.isin(some[:, None] * len(targets) + nearest.indices, own))
    found = torch.cat(hits)
    return {
        "r_at_1": found[:, 0].float().mean().item(),
        "r_at_10": found.any(1).float().mean().item(),
    }
