"""What training minimizes, on standardized latents x, (rows, n), and captions e, (rows, k).

The network's first k outputs are the caption's; the other n - k are a residual, what the image has
and its caption does not say.
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


def with_residual(e: Tensor, features: int, residual: Tensor | None = None) -> Tensor:
    """Caption coordinates (N, k) and a residual, zero if none is given: (N, features)."""
    if residual is None:
        return F.pad(e, (0, features - e.shape[1]))
    return torch.cat([e, residual], 1)


def pair_losses(
    network: InvertibleNetwork, batch: Mapping[str, Tensor], weights: Mapping[str, float]
) -> dict[str, Tensor]:
    """The terms that have a weight, of pairs of x and e:

    - caption: mean (f(x)_1..k - e)^2, over rows and features, the paper's objective;
    - generation: mean (f^-1(e + u, 0) - x)^2, u of the caption's noise, if there is any;
    - contrastive: `contrastive_loss` of each of these directions;
    - robust_inverse: mean (f^-1(f(x) + v) - x)^2, so that the inverse forgives small errors;
    - residual: `sliced_distance` of (e, f(x)_k+1..n) and (e, z), z of a unit normal.

    Args:
        batch: "x", "e", and what the terms need: "u" (rows, k), "pairs" (see `contrastive_loss`),
            "v" (rows, n), "z" (rows, n - k), "directions" (n, D).

    Source: "Image Generation from Image Captioning - Invertible Approach", section 3.2.
    """
    x, e = batch["x"], batch["e"]
    y = network(x)
    found, residual = y[:, : e.shape[1]], y[:, e.shape[1] :]
    directions = [(found, e)]
    losses = {"caption": F.mse_loss(found, e)}
    if weights["generation"]:
        drawn = network.inverse(with_residual(e + batch.get("u", 0), x.shape[1]))
        directions.append((drawn, x))
        losses["generation"] = F.mse_loss(drawn, x)
    if weights["contrastive"]:
        terms = [contrastive_loss(*direction, batch["pairs"]) for direction in directions]
        losses["contrastive"] = torch.stack(terms).sum()
    if weights["robust_inverse"]:
        losses["robust_inverse"] = F.mse_loss(network.inverse(y + batch["v"]), x)
    if weights["residual"] and residual.shape[1]:
        one, other = (torch.cat([e, part], 1) for part in (residual, batch["z"]))
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
