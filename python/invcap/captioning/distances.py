"""The distance that training minimizes, and that captions and images are found by."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distances(queries: Tensor, targets: Tensor) -> Tensor:
    """Mean squared distances of rows, (Q, n) and (T, n) to (Q, T)."""
    return torch.cdist(queries, targets).square() / queries.shape[-1]
