"""`torch.compile(fullgraph=True)` of functions, layers and networks, with backward."""

import shutil

import pytest
import torch
from layer_references import FUNCTIONS, make_case, randomize_, relative_error
from torch import Tensor

from invcap_ext import InvertibleLinear, InvertibleNetwork

pytestmark = pytest.mark.slow

DIRECTIONS = ("forward", "inverse")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def outcome(module: torch.nn.Module, function, x: Tensor) -> tuple[Tensor, ...]:
    """Values of function and gradients of all that it depends on."""
    leaf = x.clone().requires_grad_()
    result = function(leaf)
    return result, *torch.autograd.grad(result.square().sum(), [leaf, *module.parameters()])


def assert_compiles(
    module: torch.nn.Module, direction: str, backend: str, batches: tuple[int, ...] = (7, 12)
) -> None:
    randomize_(module)
    eager = getattr(module, direction)
    compiled = torch.compile(eager, fullgraph=True, backend=backend)
    for batch in batches:
        x = make_case(33, batch, torch.float32).rows
        for got, want in zip(outcome(module, compiled, x), outcome(module, eager, x), strict=True):
            # The loss may be summed in another order, no more.
            assert relative_error(got, want) < 1e-5


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no_bias"))
def test_a_layer_compiles_as_one_graph_with_its_backward(direction: str, bias: bool) -> None:
    assert_compiles(InvertibleLinear(33, bias=bias), direction, "aot_eager")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("activations", ("store", "recompute"))
def test_a_network_compiles_as_one_graph_with_its_backward(
    direction: str, activations: str
) -> None:
    network = InvertibleNetwork(33, 3, negative_slope=0.4, activations=activations)
    assert_compiles(network, direction, "aot_eager")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_compiled_network_that_recomputes_takes_more_rows_than_go_back_at_once(
    direction: str,
) -> None:
    network = InvertibleNetwork(33, 2, negative_slope=0.4, activations="recompute")
    assert_compiles(network, direction, "aot_eager", batches=(7, 12, 20_000))


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="no C++ compiler")
def test_inductor_compiles_a_network_with_its_backward() -> None:
    assert_compiles(InvertibleNetwork(33, 2, negative_slope=0.4), "forward", "inductor")


def test_the_log_determinant_of_a_network_compiles_as_one_graph() -> None:
    network = InvertibleNetwork(33, 3, negative_slope=0.4)
    randomize_(network)
    compiled = torch.compile(network.log_abs_det_jacobian, fullgraph=True, backend="aot_eager")
    x = make_case(33, 7, torch.float32).rows
    torch.testing.assert_close(compiled(x), network.log_abs_det_jacobian(x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_graph_serves_every_batch_size(name: str) -> None:
    function, _ = FUNCTIONS[name]
    graphs = 0

    def count(graph: torch.fx.GraphModule, _) -> torch.fx.GraphModule:
        nonlocal graphs
        graphs += 1
        return graph

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=count)
    for batch in (2, 5, 9):
        arguments = make_case(33, batch, torch.float32).arguments
        assert torch.equal(compiled(*arguments), function(*arguments))
    assert graphs == 1
