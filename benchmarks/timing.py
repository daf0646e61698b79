"""Times functions in turns, so that ratios do not depend on changes of the machine's speed."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

WARM_UP = 5
SLOPE = 0.5

Call = Callable[[], object]


def median_seconds(
    functions: Mapping[str, Call], rounds: int, warm_up: int = WARM_UP
) -> dict[str, float]:
    """Calls every function once per round, and returns the median time of each."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warm_up + rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def dense_layers(n: int, depth: int = 1, dtype: torch.dtype | None = None) -> nn.Sequential:
    """A dense network of the same size; if it has several layers, the last has no activation."""
    layers = [[nn.Linear(n, n, dtype=dtype), nn.LeakyReLU(SLOPE)] for _ in range(depth)]
    flat = [module for layer in layers for module in layer]
    return nn.Sequential(*(flat if depth == 1 else flat[:-1]))


def value(function: Callable[[Tensor], object], rows: Tensor) -> Call:
    def call() -> None:
        with torch.no_grad():
            function(rows)

    return call


def step(module: Callable[[Tensor], Tensor], leaves: list[Tensor], rows: Tensor) -> Call:
    """Forward and backward passes, with the gradient of the input."""
    x, gradient = rows.clone().requires_grad_(), torch.randn_like(rows)
    return lambda: torch.autograd.grad(module(x), [x, *leaves], gradient)
