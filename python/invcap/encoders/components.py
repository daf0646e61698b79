"""Principal components of rows that need not fit into memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invcap.data.shards import Rows, blocks

SMALLEST = 1e-9


@dataclass(frozen=True)
class Components:
    """x -> (x - mean) @ directions, m numbers of unit variance and no correlation.

    Attributes:
        mean: (n,) float32.
        directions: (n, m) float32, sorted by variance, divided by the standard deviations.
    """

    mean: Tensor
    directions: Tensor


def principal_components(rows: Rows, most: int) -> Components:
    """At most so many principal components of rows (N, n), in float64 from their covariance.

    There are fewer where the rows have no more dimensions. Costs O(N n^2 + n^3).
    """
    total, products = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for block in blocks(rows):
        total = total + block.double().sum(0)
    mean = total / len(rows)
    for block in blocks(rows):
        centred = block.double() - mean
        products = products + centred.T @ centred
    variances, directions = torch.linalg.eigh(products / len(rows))
    kept = variances > SMALLEST * variances[-1].clamp(min=SMALLEST)
    variances, directions = variances[kept].flip(0)[:most], directions[:, kept].flip(1)[:, :most]
    # An eigenvector has no sign of its own: its largest entry is made positive.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * largest.sign() / variances.sqrt()
    return Components(mean.float(), directions.float())
