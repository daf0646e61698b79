"""Standardization of latents and embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invcap.data.shards import Rows, blocks

CONSTANT = 1e-6


@dataclass(frozen=True)
class Scaler:
    """x -> (x - mean) B / deviation, feature by feature.

    Attributes:
        mean: (n,).
        deviation: (n,), or (k,) with a basis.
        basis: B, (n, k) with orthonormal columns; None for the identity.
    """

    mean: Tensor
    deviation: Tensor
    basis: Tensor | None = None

    @classmethod
    def of(cls, rows: Rows) -> Scaler:
        """Takes the statistics of rows (N, n); a feature that never varies keeps its scale."""
        mean = _mean(rows)
        none = torch.zeros((), dtype=torch.float64)
        squares = sum(((block.double() - mean).square().sum(0) for block in blocks(rows)), none)
        deviation = (squares / len(rows)).sqrt()
        return cls(mean.float(), torch.where(deviation > CONSTANT, deviation, 1.0).float())

    @classmethod
    def principal(cls, rows: Rows, components: int) -> Scaler:
        """Rows (N, n) to their first principal components, all divided by one deviation.

        One deviation for all, so that distances within those components do not change.
        """
        mean = _mean(rows)
        none = torch.zeros((), dtype=torch.float64)
        centred = (block.double() - mean for block in blocks(rows))
        covariance = sum((block.T @ block for block in centred), none) / len(rows)
        variances, vectors = torch.linalg.eigh(covariance)
        deviation = variances[-components:].mean().clamp_min(CONSTANT**2).sqrt()
        basis = vectors[:, -components:].flip(1)
        return cls(mean.float(), deviation.expand(components).float(), basis.float())

    @property
    def features(self) -> int:
        """Numbers of a standardized row."""
        return len(self.deviation)

    def __call__(self, rows: Tensor) -> Tensor:
        centred = rows - self.mean
        return (centred if self.basis is None else centred @ self.basis) / self.deviation

    def inverse(self, rows: Tensor) -> Tensor:
        """(N, k) standardized -> (N, n) as they were, or nearest to that in the basis."""
        scaled = rows * self.deviation
        return (scaled if self.basis is None else scaled @ self.basis.T) + self.mean

    def to(self, device: torch.device | str) -> Scaler:
        """The same on another device."""
        return Scaler(**{name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def _mean(rows: Rows) -> Tensor:
    none = torch.zeros((), dtype=torch.float64)
    return sum((block.double().sum(0) for block in blocks(rows)), none) / len(rows)
