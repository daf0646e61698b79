"""Batches as training draws them, without their numbers."""

import torch

from invcap.captioning.train import TrainSettings
from invcap.training.trainer import Batch

EVERY_TERM = TrainSettings(contrastive=0.5, robust_inverse=0.3, noise=0.1)


def empty_batch(device: str, features: int, coordinates: int, rows: int = 16) -> Batch:
    """A batch with what every term needs."""
    shapes = {
        "x": features,
        "e": coordinates,
        "v": features,
        "z": features - coordinates,
    }
    batch = {name: torch.empty(rows, width, device=device) for name, width in shapes.items()}
    pairs = torch.empty(rows, 2, dtype=torch.int64, device=device)
    return batch | {"pairs": pairs, "directions": torch.empty(features, 8, device=device)}
