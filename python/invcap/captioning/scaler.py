"""Standardization of latents and embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invcap.data.shards import Rows, blocks

CONSTANT = 1e-6


@dataclass(frozen=True)
class Scaler:
    """x -> (x - mean) / deviation, feature by feature; mean, deviation: (n,)."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, rows: Rows) -> Scaler:
        """Takes the statistics of rows (N, n); a feature that never varies keeps its scale."""
        none = torch.zeros((), dtype=torch.float64)
        mean = sum((block.double().sum(0) for block in blocks(rows)), none) / len(rows)
        squares = sum(((block.double() - mean).square().sum(0) for block in blocks(rows)), none)
        deviation = (squares / len(rows)).sqrt()
        return cls(mean.float(), torch.where(deviation > CONSTANT, deviation, 1.0).float())

    def __call__(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.deviation

    def inverse(self, rows: Tensor) -> Tensor:
        """(N, n) standardized -> (N, n) as they were."""
        return rows * self.deviation + self.mean

    def to(self, device: torch.device | str) -> Scaler:
        """The same on another device."""
        return Scaler(self.mean.to(device), self.deviation.to(device))
