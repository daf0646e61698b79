"""A small network, and its training, for tests of the trainer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from invcap.training.muon import Muon
from invcap.training.trainer import Batch, Trained, TrainerSettings, train
from invcap_ext import InvertibleNetwork

SETTINGS = TrainerSettings(
    7, 10, warmup=0.3, decay=0.5, weights={"size": 0.1}, checkpoint_every=2, seed=3
)
FIFTY = replace(SETTINGS, steps=50, average=0.9, checkpoint_every=20)
DATA = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Convolutions in another memory layout, an invertible network, a buffer, an idle weight."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        self.network = InvertibleNetwork(32, 2, negative_slope=0.5)
        self.left_alone = nn.Parameter(torch.ones(5))
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return self.network(self.convolution(x).tanh().flatten(1))


def make_network() -> Network:
    torch.manual_seed(0)
    return Network()


def losses(network: Network, batch: Batch) -> dict[str, Tensor]:
    y = network(batch["x"])
    return {"error": F.mse_loss(y[:, :16], batch["target"]), "size": y[:, 16:].square().mean()}


def draw(generator: torch.Generator, part: slice) -> Batch:
    chosen = torch.randint(len(DATA), (SETTINGS.batch_size,), generator=generator)[part]
    noise = torch.randn(SETTINGS.batch_size, 3, 4, 4, generator=generator)[part]
    return {"x": DATA[chosen] + 0.1 * noise, "target": DATA[chosen, 0].flatten(1)}


def muon_and_adamw(network: Network) -> list[torch.optim.Optimizer]:
    factors = [layer.lu for layer in network.network.layers]
    biases = [layer.bias for layer in network.network.layers]
    return [
        Muon([network.convolution.weight, *factors], 0.02),
        torch.optim.AdamW([network.convolution.bias, *biases], 2e-3, betas=(0.9, 0.99)),
    ]


def adamw(network: Network) -> list[torch.optim.Optimizer]:
    groups = [
        {"params": [*network.convolution.parameters()], "lr": 1e-2},
        {"params": [*network.network.parameters()], "weight_decay": 0.1},
    ]
    return [torch.optim.AdamW(groups, 1e-3)]


OPTIMIZERS = {"muon and adamw": muon_and_adamw, "adamw": adamw}


def run(
    path: Path,
    accelerator: Accelerator,
    settings: TrainerSettings = SETTINGS,
    optimizers: Callable[[Network], list[torch.optim.Optimizer]] = muon_and_adamw,
    before_draw: Callable[[], None] = lambda: None,
) -> Trained[Network]:
    def watched_draw(generator: torch.Generator, part: slice) -> Batch:
        before_draw()
        return draw(generator, part)

    network = make_network()
    made = optimizers(network)
    return train(network, losses, watched_draw, made, settings, path, {"data": "a"}, accelerator)


def everything(trained: Trained[Network], path: Path) -> dict[str, bytes]:
    """All that a run ends with, bit for bit."""
    found = {f"module {name}": value for name, value in trained.module.state_dict().items()}
    found |= {f"average {name}": value for name, value in trained.average.state_dict().items()}
    found |= {f"checkpoint {name}": value for name, value in load_file(path).items()}
    history = {name: np.array(values).tobytes() for name, values in trained.history.items()}
    return {name: value.numpy().tobytes() for name, value in found.items()} | history


def assert_near(found: Trained, expected: Trained) -> None:
    """Weights within 1e-5 of their norm, losses within 1e-5."""
    for which in ("module", "average"):
        weights = getattr(found, which).state_dict()
        for name, weight in getattr(expected, which).named_parameters():
            assert torch.dist(weights[name], weight) <= 1e-5 * weight.norm(), (which, name)
    for name, values in expected.history.items():
        assert found.history[name] == pytest.approx(values, rel=1e-5), name


def diverge(path: Path, accelerator: Accelerator, at: int) -> None:
    """Trains with a loss that is not a number from a step on."""

    def bad(network: Network, batch: Batch) -> dict[str, Tensor]:
        return {"error": network(batch["x"]).mean() * batch["factor"]}

    steps = iter(range(1, 100))

    def draw_bad(generator: torch.Generator, part: slice) -> Batch:
        factor = torch.tensor(torch.nan if next(steps) >= at else 1.0)
        return draw(generator, part) | {"factor": factor}

    network = make_network()
    train(network, bad, draw_bad, adamw(network), SETTINGS, path, {}, accelerator)
