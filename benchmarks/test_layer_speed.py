"""The invertible layer beside nn.Linear + leaky ReLU of the same size, float32.

pytest benchmarks -q -s
"""

import pytest
import torch
from torch import nn

from benchmarks.timing import median_seconds
from invcap_ext import InvertibleLinear

BATCH = 256
MOST_STEP, MOST_INVERSE = 1.8, 1.6


@pytest.mark.parametrize("n", [384, 1024])
def test_a_step_and_an_inverse_cost_little_more_than_those_of_a_dense_layer(n, benchmark):
    torch.manual_seed(0)
    layer = InvertibleLinear(n, negative_slope=0.5)
    dense = nn.Sequential(nn.Linear(n, n), nn.LeakyReLU(0.5))
    x = torch.randn(BATCH, n, requires_grad=True)
    gradient = torch.randn(BATCH, n)

    def inverse() -> None:
        with torch.no_grad():
            layer.inverse(gradient)

    def forward(module: nn.Module) -> None:
        with torch.no_grad():
            module(x)

    seconds = median_seconds(
        {
            "dense forward": lambda: forward(dense),
            "dense step": lambda: dense(x).backward(gradient),
            "forward": lambda: forward(layer),
            "inverse": inverse,
            "step": lambda: layer(x).backward(gradient),
        },
        rounds=100,
    )
    ratios = {
        "forward": seconds["forward"] / seconds["dense forward"],
        "inverse": seconds["inverse"] / seconds["dense forward"],
        "step": seconds["step"] / seconds["dense step"],
    }
    print(f"\nn = {n}, batch {BATCH}, over the dense layer:", ratios)
    benchmark.extra_info.update(ratios)
    benchmark.pedantic(inverse, rounds=20)
    assert ratios["step"] <= MOST_STEP
    assert ratios["inverse"] <= MOST_INVERSE
