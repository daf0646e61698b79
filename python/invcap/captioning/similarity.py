"""The similarity for searching captions and images, and for the contrastive term."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def similarities(queries: Tensor, targets: Tensor) -> Tensor:
    """Cosines of rows, (Q, n) and (T, n) to (Q, T).

    The network shrinks what it is unsure of towards the mean; a squared distance would then
    prefer short targets.
    """
    return F.normalize(queries, dim=1) @ F.normalize(targets, dim=1).T
