"""Measures a captioner on held-out images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invcap.captioning.evaluate_writer import evaluate_writer
from invcap.captioning.model import InvertibleCaptioner
from invcap.captioning.objectives import widened
from invcap.captioning.pairs import Pairs, first_of_each, in_memory
from invcap.captioning.similarity import similarities

DISTANCES_AT_ONCE = 2**24
REDRAWN = 1000


@torch.no_grad()
def evaluate(model: InvertibleCaptioner, held_out: Pairs) -> dict[str, Any]:
    """Measures both directions of a captioner on held-out pairs.

    Returns:
        "caption": mean squared error between f(latent) and the caption's coordinates, over pairs;
        shares of images with one of their own captions nearest of all (`r_at_1`), among the five
        and ten nearest, and the median rank of the first of their own. "generation": the same of
        f^-1(caption, residual 0) and the image's latent, each caption retrieving among all images;
        and `redrawn_r_at_10`: of images drawn from the first caption of at most `REDRAWN` images
        and encoded again. "round_trip": max |f^-1(f(x)) - x|. Latents and embeddings have unit
        variance, so that 1 is what always answering the mean gets. Nearest is by the cosine. With a
        writer, "writer": see `evaluate_writer`.
    """
    device = model.device
    x = model.latent_scaler(in_memory(held_out.latents).to(device))
    e = model.embedding_scaler(in_memory(held_out.embeddings).to(device))
    image, caption = held_out.image.to(device), held_out.caption.to(device)
    features, width = x.shape[1], model.network.features
    y = model.network(widened(x, width))
    found = y[:, : e.shape[1]]
    drawn = model.network.inverse(widened(e, width))[:, :features]
    round_trip = model.network.inverse(y)[:, :features] - x
    measured: dict[str, Any] = {
        "caption": {
            "mse": F.mse_loss(found[image], e[caption]).item(),
            **_recall(ranks(found, e, image, caption)),
        },
        "generation": {
            "latent_mse": F.mse_loss(drawn[caption], x[image]).item(),
            **_recall(ranks(drawn, x, caption, image)),
            "redrawn_r_at_10": _redrawn(model, e, x, image, caption),
        },
        "round_trip": {"max_abs_error": round_trip.abs().max().item()},
    }
    if model.writer is not None:
        measured["writer"] = evaluate_writer(model, held_out, found, e)
    return measured


def ranks(queries: Tensor, targets: Tensor, query: Tensor, target: Tensor) -> Tensor:
    """For each query, the rank (from 1) of its nearest own target, by pairs (query, target)."""
    found = []
    numbers = torch.arange(len(queries), device=queries.device)
    for some in numbers.split(max(1, DISTANCES_AT_ONCE // len(targets))):
        found_at = similarities(queries[some], targets)
        mine = (query >= some[0]) & (query <= some[-1])
        own = torch.full((len(some),), -torch.inf, device=queries.device)
        row = query[mine] - some[0]
        own = own.scatter_reduce(0, row, found_at[row, target[mine]], "amax")
        found.append((found_at > own[:, None]).sum(1) + 1)
    return torch.cat(found)


def _recall(found: Tensor) -> dict[str, float]:
    shares = {f"r_at_{k}": (found <= k).float().mean().item() for k in (1, 5, 10)}
    return shares | {"median_rank": found.float().quantile(0.5).item()}


def _redrawn(
    model: InvertibleCaptioner, e: Tensor, x: Tensor, image: Tensor, caption: Tensor
) -> float:
    """The share of drawn images that, encoded again, have their own image among the ten nearest."""
    first = first_of_each(image)
    images, captions = image[first][:REDRAWN], caption[first][:REDRAWN]
    again = model.latent_scaler(model.image_encoder.encode(model.draw(e[captions])))
    numbers = torch.arange(len(images), device=images.device)
    return (ranks(again, x, numbers, images) <= 10).float().mean().item()
