"""The residual's distribution: a unit normal, whatever the caption."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from invcap.training.devices import from_all_processes


def draw_directions(widths: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """Random unit vectors in two spaces at once, half of each in either: (sum(widths), count)."""
    parts = [torch.randn(width, count, generator=generator) for width in widths]
    return torch.cat([F.normalize(part, dim=0) for part in parts]) * 0.5**0.5


def sliced_distance(rows: Tensor, others: Tensor, directions: Tensor) -> Tensor:
    """The squared sliced Wasserstein distance of two sets of B rows each, (B, n).

    It is the mean over directions, (n, D), of the mean squared difference of sorted projections.

    Source: "Sliced and Radon Wasserstein Barycenters of Measures", section 3.
    """
    one, other = (
        (from_all_processes(part) @ directions).sort(dim=0).values for part in (rows, others)
    )
    return F.mse_loss(one, other)
