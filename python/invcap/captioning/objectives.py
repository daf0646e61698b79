"""What training minimizes, on standardized latents x, (rows, n), and captions e, (rows, k).

The network's first k outputs are the caption's; the next n - k are a residual, what the image has
and its caption does not say. The residual's first m numbers may be variations: then the inverse is
trained to draw an image from its caption and these, so that others draw other images of it.

A network wider than n, of N, has zeros beside both, which give it room: a latent is padded with
zeros (and the noise of training), outputs beyond n are free in one direction and zero in the other.
Without them f and its inverse on captions undo each other exactly, so that one cannot err towards
the mean, as regression does, unless the other errs away from it. For a linear f whose directions
are x -> A x and e -> B e, A B + P Q = I, where P and Q have N - n columns and rows. So I - A B has
at most the rank N - n, and with N = n + k both directions can be any matrices.

Source of padding: Ardizzone et al., "Analyzing inverse problems with invertible neural networks"
(2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from invcap.captioning.contrast import contrastive_loss
from invcap.captioning.residual import sliced_distance
from invcap_ext import InvertibleNetwork

Objective = Literal["caption", "bidirectional", "likelihood"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


def widened(rows: Tensor, width: int, beside: Tensor | None = None) -> Tensor:
    """Rows (N, k), what is given beside them (N, m), and zeros up to (N, width)."""
    if beside is not None:
        rows = torch.cat([rows, beside], 1)
    return F.pad(rows, (0, width - rows.shape[1]))


def pair_losses(
    network: InvertibleNetwork, batch: Mapping[str, Tensor], weights: Mapping[str, float]
) -> dict[str, Tensor]:
    """The terms that have a weight, of pairs of x and e:

    - caption: mean (f(x)_1..k - e)^2, over rows and features, the paper's objective;
    - generation: mean (f^-1(e + u, 0) - x)^2, u of the caption's noise, if there is any; x is the
      mean of several latents with that caption where there are, which has less variance.
      With variations f^-1(e + u, r + w, 0), r those of f(x) and w noise, and x itself;
    - contrastive: `contrastive_loss` of each of these directions;
    - robust_inverse: mean (f^-1(f(x) + v) - x)^2, so that the inverse tolerates small errors;
    - residual: `sliced_distance` of (e, r) and (e, z), z of a unit normal; r are the variations, or
      without them f(x)_k+1..n.

    Args:
        batch: "x", "e", and what the terms need: "u" (rows, k), "pairs" (see `contrastive_loss`),
            "v" (rows, width), "z" as r, "directions" (k + numbers of r, D), "padding"
            (rows, width - n), "expected" (rows, n), "w" (rows, variations).

    Source: "Image Generation from Image Captioning - Invertible Approach", section 3.2; variations:
    Tolstikhin et al., "Wasserstein auto-encoders" (2018).
    """
    x, e = batch["x"], batch["e"]
    (features, coordinates), width = (x.shape[1], e.shape[1]), network.features
    y = network(widened(x, width, batch.get("padding")))
    found, residual = y[:, :coordinates], y[:, coordinates:features]
    directions = [(found, e)]
    losses = {"caption": F.mse_loss(found, e)}
    if weights["generation"]:
        varied = residual[:, : batch["w"].shape[1]] + batch["w"] if "w" in batch else None
        drawn = network.inverse(widened(e + batch.get("u", 0), width, varied))[:, :features]
        directions.append((drawn, x))
        losses["generation"] = F.mse_loss(drawn, batch.get("expected", x))
    if weights["contrastive"]:
        terms = [contrastive_loss(*direction, batch["pairs"]) for direction in directions]
        losses["contrastive"] = torch.stack(terms).sum()
    if weights["robust_inverse"]:
        losses["robust_inverse"] = F.mse_loss(network.inverse(y + batch["v"])[:, :features], x)
    if weights["residual"] and residual.shape[1]:
        z = batch["z"]
        one, other = (torch.cat([e, part], 1) for part in (residual[:, : z.shape[1]], z))
        losses["residual"] = sliced_distance(one, other, batch["directions"])
    return losses


def likelihood_loss(
    network: InvertibleNetwork, x: Tensor, e: Tensor, log_sigma: Tensor
) -> dict[str, Tensor]:
    """-log p(x | e) / n, up to a constant, where f(x) is normal about (e, 0):

    (sum (f(x)_1..k - e)^2 / (2 sigma^2) + k log sigma + sum f(x)_k+1..n^2 / 2 - log|det df/dx|) / n

    with deviation sigma of the caption's coordinates and 1 of the residual.
    """
    (rows, features), coordinates = x.shape, e.shape[1]
    y = network(x)
    error = (y[:, :coordinates] - e).square().sum() / rows
    residual = y[:, coordinates:].square().sum() / rows
    volume = network.log_abs_det_jacobian(x).mean()
    scaled = error / (2 * torch.exp(2 * log_sigma)) + coordinates * log_sigma + residual / 2
    return {"likelihood": (scaled - volume) / features}
