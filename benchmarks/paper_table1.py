"""The paper's Table 1: learns an element-wise function, then evaluates the network's inverse.

    python benchmarks/paper_table1.py

For each of sine, a polynomial and the exponential, on an interval where it is monotonic, a network
learns y = (f(x_1), .., f(x_n)) from rows x of n independent uniform numbers. As in the paper only
this direction is trained (mean squared error, new rows at every step); the inverse is then
evaluated at new y. n is 8, and the network has to learn that the elements do not interact.

All nonlinearity comes from the activations. A leaky ReLU with slope s < 1 is convex, and
compositions of increasing convex functions are convex: a sine cannot be represented. So two
`InvertibleNetwork`s are composed, with slopes s and 1/s. Their diagonals s^(-1/4) and s^(1/4) keep
the volume if half of all numbers are negative. Biases are initialized so that each kink falls on
one of the rows; a kink outside of them has no gradient.

Adam on new rows at every step brings the kinks near their places; L-BFGS on one large set of rows
then converges many times faster than Adam alone.

Source: "Image Generation from Image Captioning - Invertible Approach", section 3.1, Table 1.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from invcap_ext import InvertibleNetwork

FEATURES = 8
DEPTH = 10
SLOPE = 0.7
SPREAD = 0.3  # of the triangles at the start, beside `InvertibleLinear`'s own
BATCH = 256
LEARNING_RATE = 2e-2
WARM_UP_STEPS = 100
ROWS = 4096  # of L-BFGS
HISTORY = 50
FRESH_ROWS = 10_000


@dataclass(frozen=True)
class Function:
    """An increasing function on [-bound, bound]."""

    formula: str
    apply: Callable[[Tensor], Tensor]
    bound: float


FUNCTIONS = {
    "sine": Function("sin x", torch.sin, 1.2),
    "polynomial": Function("(x^3 + x) / 2", lambda x: (x**3 + x) / 2, 1.0),
    "exponential": Function("exp x", torch.exp, 1.0),
}


@dataclass(frozen=True)
class Row:
    """One line of the table: mean squared errors on fresh points.

    Attributes:
        function: its name in `FUNCTIONS`.
        learning_mse: error of the network at x, against f(x).
        inverting_mse: error of the inverse at f(x), against x.
        seconds: training time.
    """

    function: str
    learning_mse: float
    inverting_mse: float
    seconds: float


class BothWays(nn.Module):
    """A network of convex activations, then one of concave activations; rows (..., n)."""

    def __init__(self, features: int, depth: int, slope: float) -> None:
        super().__init__()
        self.networks = nn.ModuleList(
            InvertibleNetwork(features, depth, negative_slope=s, diagonal=s**-0.25)
            for s in (slope, 1 / slope)
        )
        with torch.no_grad():
            for network in self.networks:
                for layer in network.layers:
                    layer.lu.mul_(SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        for network in self.networks:
            x = network(x)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        for network in reversed(self.networks):
            y = network.inverse(y)
        return y

    @torch.no_grad()
    def place_kinks(self, x: Tensor, generator: torch.Generator) -> None:
        """Sets every bias so that its z is zero at one row of x (rows, n), drawn for each."""
        for network in self.networks:
            for layer in network.layers:
                drawn = torch.randint(len(x), (1, layer.features), generator=generator)
                layer.bias.copy_(-(x @ layer.weight.T).gather(0, drawn)[0])
                x = layer(x)


def run(
    functions: Sequence[str] = tuple(FUNCTIONS), steps: int = 1500, seed: int = 0
) -> tuple[Row, ...]:
    """Trains a network for each of functions and measures it in both directions."""
    return tuple(_row(name, steps, seed) for name in functions)


def _row(name: str, steps: int, seed: int) -> Row:
    function = FUNCTIONS[name]
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    network = _initial(function, generator)
    _approach(network, function, steps, generator)
    _settle(network, function, steps, generator)
    seconds = time.perf_counter() - start
    fresh = _uniform(FRESH_ROWS, function.bound, torch.Generator().manual_seed(seed + 1))
    target = function.apply(fresh)
    with torch.no_grad():
        learning = nn.functional.mse_loss(network(fresh), target).item()
        inverting = nn.functional.mse_loss(network.inverse(target), fresh).item()
    return Row(name, learning, inverting, seconds)


def _initial(function: Function, generator: torch.Generator) -> BothWays:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        network = BothWays(FEATURES, DEPTH, SLOPE)
    network.place_kinks(_uniform(BATCH, function.bound, generator), generator)
    return network


def _approach(
    network: BothWays, function: Function, steps: int, generator: torch.Generator
) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, step / WARM_UP_STEPS) * (1 - step / steps)
    )
    for _ in range(steps):
        x = _uniform(BATCH, function.bound, generator)
        loss = nn.functional.mse_loss(network(x), function.apply(x))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _settle(network: BothWays, function: Function, steps: int, generator: torch.Generator) -> None:
    x = _uniform(ROWS, function.bound, generator)
    target = function.apply(x)
    optimizer = torch.optim.LBFGS(
        network.parameters(),
        max_iter=steps,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(x), target)
        loss.backward()
        return loss

    optimizer.step(loss)


def _uniform(rows: int, bound: float, generator: torch.Generator) -> Tensor:
    return torch.empty(rows, FEATURES).uniform_(-bound, bound, generator=generator)


def main(
    seed: Annotated[int, typer.Option(help="Seed of weights, training and test points.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of Adam, and of L-BFGS.")] = 1500,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Learns three functions and inverts them: the paper's Table 1, on fresh points."""
    rows = run(steps=steps, seed=seed)
    if as_json:
        json.dump([asdict(row) for row in rows], sys.stdout)
        return
    print(f"{'function':13}{'':15}{'interval':14}{'learning MSE':>13}{'inverting MSE':>15}{'s':>6}")
    for row in rows:
        function = FUNCTIONS[row.function]
        interval = f"[{-function.bound:g}, {function.bound:g}]"
        print(
            f"{row.function:13}{function.formula:15}{interval:14}"
            f"{row.learning_mse:13.1e}{row.inverting_mse:15.1e}{row.seconds:6.0f}"
        )


if __name__ == "__main__":
    typer.run(main)
