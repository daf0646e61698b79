"""Other ways from latents to embeddings and back, for comparison."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from FrEIA.framework import SequenceINN
from FrEIA.modules import AllInOneBlock
from scipy.linalg import orthogonal_procrustes
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from torch import Tensor, nn

from invcap.captioning.objectives import pair_losses
from invcap.captioning.train import TrainSettings
from invcap.training.trainer import Batch, TrainerSettings, train

PENALTIES = (0.1, 0.3, 1.0)
BLOCK = 50
HIDDEN = 512


@dataclass(frozen=True)
class Map:
    """A fitted map of rows to rows.

    Attributes:
        numbers: how many numbers it has learned or keeps.
    """

    apply: Callable[[Tensor], Tensor]
    numbers: int


def ridge(x: Tensor, y: Tensor) -> Map:
    """Ridge regression with the best of several penalties."""
    penalties = [penalty * len(x) for penalty in PENALTIES]
    model = best([lambda p=p: Ridge(p) for p in penalties], x, y)
    return Map(lambda rows: predict(model, rows), x.shape[1] * y.shape[1])


def kernel_ridge(x: Tensor, y: Tensor) -> Map:
    """Kernel ridge regression with Gaussian kernels and the best of several penalties."""
    width = 0.5 / x.shape[1]
    model = best(
        [lambda p=p: KernelRidge(alpha=p, kernel="rbf", gamma=width) for p in PENALTIES], x, y
    )
    return Map(lambda rows: predict(model, rows), x.numel() + y.numel())


def procrustes(x: Tensor, y: Tensor) -> Map:
    """The best rotation; the narrower side is padded with zeros."""
    features = max(x.shape[1], y.shape[1])
    padded = [np.pad(rows.numpy(), ((0, 0), (0, features - rows.shape[1]))) for rows in (x, y)]
    rotation, _ = orthogonal_procrustes(*padded)
    kept = torch.from_numpy(rotation[: x.shape[1], : y.shape[1]]).float()
    return Map(lambda rows: rows @ kept, features**2)


def mlp(x: Tensor, y: Tensor) -> Map:
    """A perceptron with two hidden layers, and early stopping on a tenth of the rows."""
    model = MLPRegressor(
        hidden_layer_sizes=(HIDDEN, HIDDEN), early_stopping=True, random_state=0, max_iter=60
    )
    model.fit(x.numpy(), y.numpy())
    numbers = sum(weight.size for weight in (*model.coefs_, *model.intercepts_))
    return Map(lambda rows: predict(model, rows), numbers)


def best(candidates: list[Callable[[], Ridge | KernelRidge]], x: Tensor, y: Tensor):
    """The candidate with the smallest error on every tenth block of rows, fitted to all rows.

    Whole blocks are left out, since neighbouring images are often of one series.
    """
    apart = torch.arange(len(x)) // BLOCK % 10 == 9

    def error(make: Callable[[], Ridge | KernelRidge]) -> float:
        model = make().fit(x[~apart].numpy(), y[~apart].numpy())
        return (predict(model, x[apart]) - y[apart]).square().mean().item()

    return min(candidates, key=error)().fit(x.numpy(), y.numpy())


def predict(model: Ridge | KernelRidge | MLPRegressor, rows: Tensor) -> Tensor:
    return torch.from_numpy(model.predict(rows.numpy())).float()


class CouplingNetwork(nn.Module):
    """An invertible network of coupling layers, with the interface of an `InvertibleNetwork`."""

    def __init__(self, features: int, depth: int) -> None:
        super().__init__()
        self.features = features

        def subnet(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))

        self.network = SequenceINN(features)
        for _ in range(depth):
            self.network.append(AllInOneBlock, subnet_constructor=subnet, permute_soft=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[0]

    def inverse(self, y: Tensor) -> Tensor:
        return self.network(y, rev=True)[0]


def coupling(
    x: Tensor, e: Tensor, settings: TrainSettings, accelerator: Accelerator
) -> CouplingNetwork:
    """Coupling layers trained on the errors of both directions."""
    torch.manual_seed(settings.seed)
    network = CouplingNetwork(x.shape[1], settings.depth)
    weights = {"generation": 1.0, "contrastive": 0.0, "robust_inverse": 0.0, "residual": 0.0}

    def draw(generator: torch.Generator, part: slice) -> Batch:
        chosen = torch.randint(len(x), (settings.batch_size,), generator=generator)
        noise = torch.randn(settings.batch_size, x.shape[1], generator=generator)
        return {
            "x": x[chosen[part]] + settings.noise * noise[part],
            "e": e[chosen[part]],
        }

    optimizers = [torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.1)]
    trainer = TrainerSettings(settings.steps, settings.batch_size, weights=weights)
    with tempfile.TemporaryDirectory() as folder:
        return train(
            network,
            lambda network, batch: pair_losses(network, batch, weights),
            draw,
            optimizers,
            trainer,
            Path(folder) / "checkpoint.safetensors",
            {},
            accelerator,
        ).module
