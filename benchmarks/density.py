"""Density estimation: the invertible network beside flows of zuko and nflows.

    python benchmarks/density.py --output docs/flows

Toys in two dimensions, and scikit-learn's 8 x 8 digits with uniform noise added to their integers.
Every method gets the same rows, epochs, batches and learning-rate schedule; kept are the weights of
the best epoch on validation rows, and reported is the log-likelihood of test rows. Seconds of
training are processor time; inverses of all methods are timed in turns, without gradients.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from density_methods import DIGITS, TOYS, Density, Method
from sklearn.datasets import load_digits
from timing import median_seconds
from torch import Tensor, nn

from invcap.files import write_json, write_text
from invcap.training.muon import Muon

SAMPLES = 1000
ROUNDS = 11
EVALUATIONS = 20


@dataclass(frozen=True)
class Data:
    """Rows (count, n) of three splits; `noisy` draws new noise for a batch of training rows."""

    train: Tensor
    validation: Tensor
    test: Tensor
    methods: dict[str, Method]
    epochs: int
    batch: int
    noisy: Callable[[Tensor], Tensor] = lambda rows: rows
    log_volume: float = 0.0  # of the standardisation: log-likelihoods are those of the rows before


@dataclass(frozen=True)
class Outcome:
    """Test log-likelihood in nats with its standard error, seconds, number of weights."""

    log_likelihood: float
    standard_error: float
    train_seconds: float
    weights: int
    inverse_seconds: float = math.nan


def moons(count: int) -> Tensor:
    angle, second = math.pi * torch.rand(count), torch.randint(2, (count,))
    sign = 1 - 2 * second
    x = torch.stack([torch.cos(angle) * sign + second, torch.sin(angle) * sign + second / 2], 1)
    x = x + 0.1 * torch.randn(count, 2)
    return (x - torch.tensor([0.5, 0.25])) / torch.tensor([0.87, 0.5])


def rings(count: int) -> Tensor:
    radius, angle = 0.5 * torch.randint(1, 5, (count,)), 2 * math.pi * torch.rand(count)
    circle = torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    return radius[:, None] * circle + 0.08 * torch.randn(count, 2)


def checkerboard(count: int) -> Tensor:
    across = 4 * torch.rand(count) - 2
    up = torch.rand(count) - 2 * torch.randint(2, (count,)) + across.floor() % 2
    return torch.stack([across, up], 1)


def spirals(count: int) -> Tensor:
    angle = 3 * math.pi * torch.rand(count).sqrt()
    arm = torch.stack([-torch.cos(angle), torch.sin(angle)], 1) * angle[:, None] / 3
    sign = 1 - 2 * torch.randint(2, (count, 1))
    return (sign * arm + 0.1 * torch.randn(count, 2)) / 1.3


def toy(draw: Callable[[int], Tensor]) -> Data:
    return Data(draw(10_000), draw(2_000), draw(10_000), TOYS, epochs=60, batch=500)


def digits() -> Data:
    """Integers 0 to 16 plus noise, over 17; standardised by the training rows."""
    pixels = torch.tensor(load_digits().data, dtype=torch.float32)
    train, validation, test = pixels[torch.randperm(len(pixels))].split((1200, 250, 347))

    def dequantised(rows: Tensor) -> Tensor:
        return (rows + torch.rand_like(rows)) / 17

    mean, deviation = dequantised(train).mean(0), dequantised(train).std(0)

    def noisy(rows: Tensor) -> Tensor:
        return (dequantised(rows) - mean) / deviation

    held_out = [noisy(rows.repeat(4, 1)) for rows in (validation, test)]
    log_volume = -deviation.log().sum().item()
    return Data(train, *held_out, DIGITS, 60, 128, noisy=noisy, log_volume=log_volume)


DATA: dict[str, Callable[[], Data]] = {
    "two moons": lambda: toy(moons),
    "rings": lambda: toy(rings),
    "checkerboard": lambda: toy(checkerboard),
    "spirals": lambda: toy(spirals),
    "digits": digits,
}


def optimizers(density: nn.Module, method: Method) -> list[torch.optim.Optimizer]:
    """Adam; Muon on the triangles of the methods that say so."""
    triangles = [p for name, p in density.named_parameters() if name.endswith("lu")]
    others = [p for name, p in density.named_parameters() if not name.endswith("lu")]
    if method.triangle_lr is None:
        return [torch.optim.Adam(density.parameters(), method.lr)]
    return [Muon(triangles, method.triangle_lr), torch.optim.Adam(others, method.lr)]


def fit(density: Density, method: Method, data: Data) -> None:
    """Maximum likelihood; ends with the weights that were best on validation rows."""
    steps = len(data.train) // data.batch
    chosen = optimizers(density, method)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            each, each.defaults["lr"], data.epochs * steps, pct_start=0.1, cycle_momentum=False
        )
        for each in chosen
    ]
    best, kept = -math.inf, {}
    for epoch in range(1, data.epochs + 1):
        for rows in data.train[torch.randperm(len(data.train))].split(data.batch)[:steps]:
            loss = -density.log_prob(data.noisy(rows)).mean()
            density.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(density.parameters(), 10.0)
            for each, schedule in zip(chosen, schedules, strict=True):
                each.step()
                schedule.step()
        if epoch % max(1, data.epochs // EVALUATIONS) == 0:
            value = log_likelihoods(density, data.validation).mean().item()
            if value > best:
                best = value
                kept = {name: tensor.clone() for name, tensor in density.state_dict().items()}
    density.load_state_dict(kept)


@torch.no_grad()
def log_likelihoods(density: Density, rows: Tensor) -> Tensor:
    density.eval()
    values = torch.cat([density.log_prob(part) for part in rows.split(2000)])
    density.train()
    return values


def measured(name: str, data: Data) -> dict[str, Outcome]:
    densities, outcomes = {}, {}
    for label, method in data.methods.items():
        torch.manual_seed(0)
        density = method.make(data.noisy(data.train))
        start = time.process_time()
        fit(density, method, data)
        seconds = time.process_time() - start
        values = log_likelihoods(density, data.test) + data.log_volume
        weights = sum(parameter.numel() for parameter in density.parameters())
        error = values.std().item() / len(values) ** 0.5
        outcomes[label] = Outcome(values.mean().item(), error, seconds, weights)
        densities[label] = density.requires_grad_(False).eval()
        print(
            f"{name:13} {label:40} {values.mean():8.3f} +- {error:.3f}  {seconds:4.0f} s",
            flush=True,
        )
    noise = torch.randn(SAMPLES, data.test.shape[1])

    def inverse(density: Density) -> Callable[[], None]:
        def call() -> None:
            with torch.no_grad():
                density.inverse(noise)

        return call

    calls = {label: inverse(density) for label, density in densities.items()}
    times = median_seconds(calls, ROUNDS, warm_up=2)
    return {
        label: Outcome(**{**asdict(outcome), "inverse_seconds": times[label]})
        for label, outcome in outcomes.items()
    }


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: one part for each data set."""
    lines = [f"torch {torch.__version__}, 1 thread. Log-likelihoods in nats, of test rows."]
    for name in (name for name in DATA if name in results):
        lines += ["", f"## {name}", ""]
        lines += [f"| | log-likelihood | weights | training, s | {SAMPLES} samples, ms |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {label} | {row['log_likelihood']:.3f} +- {row['standard_error']:.3f} "
            f"| {row['weights']:.0f} | {row['train_seconds']:.0f} "
            f"| {1e3 * row['inverse_seconds']:.1f} |"
            for label, row in results[name].items()
        ]
    return "\n".join(lines) + "\n"


def main(
    output: Annotated[Path, typer.Option(help="Folder of table.md and results.json.")],
    data: Annotated[list[str], typer.Option(help="Only these data sets.")] = [*DATA],  # noqa: B006
) -> None:
    """Fits every method to every data set; results of other data sets are kept."""
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "results.json"
    for name in data:
        torch.manual_seed(1)
        outcomes = measured(name, DATA[name]())
        results = json.loads(path.read_text()) if path.exists() else {}
        results[name] = {label: asdict(outcome) for label, outcome in outcomes.items()}
        write_json(path, results)
        write_text(output / "table.md", table(results))


if __name__ == "__main__":
    typer.run(main)
