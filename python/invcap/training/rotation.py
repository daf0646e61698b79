"""A small task that shows what training does to a network's inverse: a rotation of rows."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn import functional as F

from invcap.training.devices import start_processes
from invcap.training.trainer import Batch, TrainerSettings, train
from invcap_ext import InvertibleNetwork

BATCH = 256
LEARNING_RATE = 1e-3


def train_rotation(
    network: InvertibleNetwork, steps: int, seed: int = 0, device: str = "auto"
) -> InvertibleNetwork:
    """Trains a network in place to map unit normal rows x, (N, n), to x Q, Q a random rotation.

    Args:
        steps: of Adam, at most; 0 leaves the network as it is.
        seed: of Q and of the rows.
        device: see `invcap.training.devices.resolve_device`.

    Returns:
        The network, on that device.
    """
    accelerator = start_processes(device)
    network.to(accelerator.device)
    if not steps:
        return network
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(network.features, network.features, generator=generator)
    rotation = torch.linalg.qr(square).Q.to(accelerator.device)

    def loss(module: InvertibleNetwork, batch: Batch) -> dict[str, Tensor]:
        return {"mse": F.mse_loss(module(batch["x"]), batch["x"] @ rotation)}

    def draw(generator: torch.Generator, part: slice) -> Batch:
        return {"x": torch.randn(BATCH, network.features, generator=generator)[part]}

    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    settings = TrainerSettings(steps, BATCH, seed=seed, name="rotation")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        train(network, loss, draw, [optimizer], settings, path, {}, accelerator)
    return network
