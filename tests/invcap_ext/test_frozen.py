"""Frozen weights cost a backward pass no sum over the batch."""

import pytest
import torch
from layer_references import FUNCTIONS, make_case
from torch.utils._python_dispatch import TorchDispatchMode

from invcap_ext import InvertibleLinear

each_function = pytest.mark.parametrize("name", FUNCTIONS)


class Operators(TorchDispatchMode):
    """Records the names of our operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace == "invcap":
            self.names.add(operator._opname)
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
