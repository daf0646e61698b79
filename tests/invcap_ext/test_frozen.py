"""Frozen weights cost a backward pass no sum over the batch."""

import pytest
import torch
from layer_references import FUNCTIONS, make_case, randomize_, relative_error
from torch.utils._python_dispatch import TorchDispatchMode

from invcap_ext import InvertibleLinear, InvertibleNetwork, route

each_function = pytest.mark.parametrize("name", FUNCTIONS)


class Operators(TorchDispatchMode):
    """Records the names of our operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace == "invcap":
            self.names.append(operator._opname)
        return operator(*args, **(kwargs or {}))


@each_function
@pytest.mark.parametrize("biased", (False, True))
@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16), ids=str)
def test_the_gradients_are_those_of_a_layer_that_learns(name, biased, dtype):
    case = make_case(33, 7, dtype)
    gradients = []
    for learned in (True, False):
        rows, lu, bias = (a.detach().clone().requires_grad_() for a in case.arguments[:3])
        wanted = [rows, *([bias] if biased else []), *([lu] if learned else [])]
        lu.requires_grad_(learned)
        result = FUNCTIONS[name][0](rows, lu, bias if biased else None, 0.9, 0.3)
        with Operators() as ran:
            gradients.append(torch.autograd.grad(result.square().sum(), wanted))
        assert (f"{name}_backward" in ran.names) == learned
    for found, expected in zip(gradients[1], gradients[0], strict=False):
        assert found.dtype == dtype
        tolerance = 1e-12 if dtype == torch.float64 else 0.03
        assert (found - expected).norm() <= tolerance * expected.norm()


@each_function
def test_second_derivatives_by_rows_and_bias_pass_gradgradcheck(name):
    case = make_case(5, 3, torch.float64)
    arguments = [a.detach().requires_grad_() for a in (case.rows, case.bias)]

    def frozen(rows, bias):
        return FUNCTIONS[name][0](rows, case.lu.detach(), bias, 0.9, 0.3)

    assert torch.autograd.gradcheck(frozen, arguments)
    assert torch.autograd.gradgradcheck(frozen, arguments)


def test_a_frozen_layer_hands_gradients_on_under_autocast_and_compile():
    layer = InvertibleLinear(33).requires_grad_(False)
    x = torch.randn(7, 33, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(layer(x).float().square().sum(), x)
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert found.dtype == torch.float32
    assert (found - expected).norm() <= 0.02 * expected.norm()


def recomputed(network: InvertibleNetwork, direction: str, x, activations="recompute"):
    """The gradients that are wanted, and our operators that a backward pass ran."""
    network.activations = activations
    wanted = [x, *(p for p in network.parameters() if p.requires_grad)]
    result = getattr(network, direction)(x)
    with Operators() as ran:
        return torch.autograd.grad(result.square().sum(), wanted), ran.names


@pytest.mark.parametrize("direction", ("forward", "inverse"))
@pytest.mark.parametrize("way", ("dense", "tiles"))
@pytest.mark.parametrize("rows", (7, 17_000))  # at once, and in parts
def test_a_network_that_recomputes_finds_no_gradient_of_frozen_weights(direction, way, rows):
    network = InvertibleNetwork(32, 3, 0.4, dtype=torch.float64)
    randomize_(network)
    network.layers[1].bias = None
    for layer in network.layers[:2]:
        layer.lu.requires_grad_(False)
    network.layers[2].bias.requires_grad_(False)
    x = make_case(32, rows).rows.requires_grad_()
    with route(way):
        found, ran = recomputed(network, direction, x)
        expected, _ = recomputed(network, direction, x, "store")
    parts = 1 if rows == 7 else 2
    assert sum("backward" in name for name in ran) == parts
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < 1e-11


def test_a_frozen_network_that_recomputes_goes_back_through_one_operator_a_layer_and_one_between():
    network = InvertibleNetwork(33, 3, 0.4, dtype=torch.float64).requires_grad_(False)
    x = make_case(33, 7).rows.requires_grad_()
    with route("tiles"):
        (found,), ran = recomputed(network, "forward", x)
        (expected,), _ = recomputed(network, "forward", x, "store")
    assert sorted(ran) == ["lu_leaky"] * 3 + ["lu_leaky_inverse"] * 2
    assert relative_error(found, expected) < 1e-12
