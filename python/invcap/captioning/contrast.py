"""The contrastive term: within a batch, an output should be nearest to its own target."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from invcap.captioning.similarity import similarities
from invcap.training.devices import from_all_processes, process_index

TEMPERATURE = 0.07


def contrastive_loss(found: Tensor, targets: Tensor, pairs: Tensor) -> Tensor:
    """Mean cross-entropy of classifying each row's own target in the batch, and the reverse.

    The logits are cosines / TEMPERATURE; captions are searched by the same cosine. Other rows of
    the same image or the same caption are ignored.

    Args:
        found, targets: (B, n).
        pairs: (B, 2) int64, the numbers of the image and of the caption of each row.

    Source: "Representation Learning with Contrastive Predictive Coding", InfoNCE, equation 4.
    """
    every_found, every_target, every_pair = map(from_all_processes, (found, targets, pairs))
    first = process_index() * len(found)
    own = torch.arange(first, first + len(found), device=found.device)
    same = (pairs[:, None] == every_pair[None]).any(2)
    same[torch.arange(len(own), device=own.device), own] = False

    def cross_entropy(queries: Tensor, answers: Tensor) -> Tensor:
        logits = similarities(queries, answers) / TEMPERATURE
        return F.cross_entropy(logits.masked_fill(same, -torch.inf), own)

    return (cross_entropy(found, every_target) + cross_entropy(targets, every_found)) / 2
