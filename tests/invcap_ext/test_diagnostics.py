"""`round_trip`: errors in both directions, condition numbers and the amplification bound."""

import pytest
import torch
from layer_references import make_case, randomize_

from invcap_ext import InvertibleLinear, InvertibleNetwork, round_trip


def make_network(n: int = 33, depth: int = 4, dtype: torch.dtype = torch.float32, **settings):
    network = InvertibleNetwork(n, depth, negative_slope=0.4, dtype=dtype, **settings)
    randomize_(network)
    return network


@pytest.mark.parametrize("activations", ("store", "recompute"))
def test_errors_are_those_of_the_network_there_and_back_in_both_orders(activations: str) -> None:
    network = make_network(activations=activations)
    x = make_case(33, 7, torch.float32).rows
    measured = round_trip(network, x)
    y = network(x)
    back = network.inverse(y)
    assert measured.inverse_error == (back - x).abs().max().item() > 0
    assert measured.forward_error == (network(back) - y).abs().max().item() > 0


def test_each_layer_is_measured_on_the_rows_that_reach_it() -> None:
    network = make_network()
    x = make_case(33, 7, torch.float32).rows
    layers = round_trip(network, x).layers
    assert len(layers) == 4
    for layer, measured in zip(network.layers, layers, strict=True):
        y = layer(x)
        back = layer.inverse(y)
        assert measured.inverse_error == (back - x).abs().max().item()
        assert measured.forward_error == (layer(back) - y).abs().max().item()
        x = y


@pytest.mark.parametrize("n", (1, 2, 33, 384))
def test_the_condition_number_is_that_of_the_dense_weight(n: int) -> None:
    layer = InvertibleLinear(n, diagonal=1.2, dtype=torch.float64)
    randomize_(layer)
    (measured,) = round_trip(layer, make_case(n, 7).rows).layers
    want = torch.linalg.cond(layer.weight.detach(), 2).item()
    assert n <= 2 or want > 1.5
    # An estimate from below, by 20 power iterations: 0.977 of the true one at n = 384.
    assert 0.9 * want < measured.condition_number <= want * (1 + 1e-9)


@pytest.mark.parametrize("negative_slope", (0.2, 1.0, 3.0))
def test_amplification_is_the_norm_of_the_inverse_over_the_slope(negative_slope: float) -> None:
    layer = InvertibleLinear(33, negative_slope=negative_slope, dtype=torch.float64)
    randomize_(layer)
    (measured,) = round_trip(layer, make_case(33, 7).rows).layers
    norm = torch.linalg.matrix_norm(torch.linalg.inv(layer.weight.detach()), 2).item()
    want = norm / min(negative_slope, 1.0)
    assert 0.95 * want < measured.amplification <= want * (1 + 1e-9)


@torch.no_grad()
def test_the_inverse_amplifies_no_change_by_more_than_the_bound() -> None:
    layer = InvertibleLinear(33, negative_slope=0.2, dtype=torch.float64)
    randomize_(layer)
    y, direction = make_case(33, 256).rows, make_case(33, 256, seed=1).rows
    _, _, right = torch.linalg.svd(torch.linalg.inv(layer.weight))
    direction[0] = right[0]  # the worst one, where both y are negative
    y[0] = -10
    bound = round_trip(layer, y).layers[0].amplification
    change = (layer.inverse(y + direction) - layer.inverse(y)).norm(dim=1) / direction.norm(dim=1)
    assert change.max() <= bound * 1.001
    assert change.max() >= bound * 0.9


@pytest.mark.parametrize(
    "dtype", (torch.float64, torch.float32, torch.bfloat16, torch.float16), ids=str
)
def test_every_dtype_is_measured_in_its_own_precision(dtype: torch.dtype) -> None:
    network = make_network(dtype=dtype)
    measured = round_trip(network, make_case(33, 7, dtype).rows)
    eps = torch.finfo(dtype).eps
    assert eps / 10 < measured.inverse_error < 1e4 * eps


def test_no_rows_give_no_error() -> None:
    measured = round_trip(make_network(), torch.empty(0, 33))
    assert measured.forward_error == measured.inverse_error == 0.0
    assert all(layer.condition_number > 1 for layer in measured.layers)


def test_measuring_leaves_no_gradient_behind() -> None:
    network = make_network()
    round_trip(network, make_case(33, 7, torch.float32).rows)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_layer_that_amplifies_is_reported_as_one() -> None:
    network = make_network(dtype=torch.float64)
    with torch.no_grad():
        network.layers[2].lu.mul_(3)
    layers = round_trip(network, make_case(33, 7).rows).layers
    assert max(range(4), key=lambda index: layers[index].amplification) == 2
    assert max(range(4), key=lambda index: layers[index].condition_number) == 2
