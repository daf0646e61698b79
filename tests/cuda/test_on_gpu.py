"""The operators on a GPU: values in every regime, streams, graphs, weights that change."""

import copy

import pytest
import torch

from invcap_ext import (
    InvertibleLinear,
    InvertibleNetwork,
    lu_leaky,
    lu_leaky_inverse,
    route,
    selfcheck,
)
from invcap_ext._gpu_situations import SITUATIONS, NotRunError

DEVICE = selfcheck.DEVICE
PRECISIONS = [(dtype, "highest") for dtype in selfcheck.TOLERANCES] + [(torch.float32, "high")]


@pytest.fixture(autouse=True)
def precision():
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(autouse=True)
def kernels():
    """These tests are about kernels of our own, whatever the table would choose."""
    with route("tiles"):
        yield


@pytest.mark.parametrize("operation", selfcheck.PEERS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize(("dtype", "precision"), PRECISIONS, ids=str)
@pytest.mark.parametrize("n", (1, 31, 129, 384, 1024))
@pytest.mark.parametrize("rows", (0, 1, 3, 33, 5000))
def test_an_operation_agrees_with_float64_and_with_itself(operation, dtype, precision, n, rows):
    torch.set_float32_matmul_precision(precision)
    layer = selfcheck.Layer.draw(n, rows, dtype)
    found, again = operation(layer), operation(layer)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    if rows:
        error = selfcheck.relative_error(found, operation(layer.exact()))
        assert error <= selfcheck.TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", selfcheck.TOLERANCES, ids=str)
def test_networks_and_squared_errors_agree_with_float64(dtype):
    with torch.no_grad():
        for check in (selfcheck.check_network, selfcheck.check_squared_error):
            assert all(outcome.sound for outcome in check(dtype))


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
@torch.no_grad()
def test_a_situation_gives_the_usual_result(situation):
    try:
        situation(DEVICE)
    except NotRunError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("function", (lu_leaky, lu_leaky_inverse))
def test_gradcheck_passes(function):
    layer = selfcheck.Layer.draw(7, 3, torch.float64)
    arguments = [a.requires_grad_() for a in (layer.x, layer.lu, layer.bias)]
    torch.autograd.gradcheck(lambda *a: function(*a, *selfcheck.SETTINGS), arguments)


def test_a_stream_of_its_own_gives_the_same():
    layer = InvertibleLinear(384, device=DEVICE)
    y = torch.randn(100, 384, device=DEVICE)
    expected = layer.inverse(y)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = layer.inverse(y)
    stream.synchronize()
    assert torch.equal(found, expected)


@torch.no_grad()
def test_the_inverse_follows_its_weights_however_they_are_written():
    network = InvertibleNetwork(384, 2, device=DEVICE)
    y = torch.randn(100, 384, device=DEVICE)
    for write in (lambda lu: lu.mul_(2), lambda lu: lu.data.mul_(2), lambda lu: lu.neg_()):
        write(network.layers[0].lu)
        x = network.inverse(y)
        torch.testing.assert_close(network(x), y, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_captured_inverse_follows_its_weights():
    layer = InvertibleLinear(384, device=DEVICE)
    y = torch.randn(100, 384, device=DEVICE)
    layer.inverse(y)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x = layer.inverse(y)
    for _ in range(2):
        layer.lu.mul_(2)
        graph.replay()
        assert torch.equal(x, layer.inverse(y))


@pytest.mark.parametrize("activations", ("store", "recompute"))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_a_step_under_autocast_is_near_that_of_float32(activations, dtype):
    network = InvertibleNetwork(384, 3, 0.8, activations=activations, device=DEVICE)
    x = torch.randn(100, 384, device=DEVICE)

    def step(run):
        result = run(x)
        loss = result.float().square().sum()
        return result, *torch.autograd.grad(loss, list(network.parameters()))

    for run in (network, network.inverse):
        expected, *expected_gradients = step(run)
        with torch.autocast(DEVICE, dtype):
            found, *gradients = step(run)
        assert found.dtype == dtype and {a.dtype for a in gradients} == {torch.float32}
        # On a CPU 0.0053 was the most, in bfloat16.
        for a, b in zip((found, *gradients), (expected, *expected_gradients), strict=True):
            assert (a - b).norm() <= 0.02 * b.norm()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_the_dense_way_agrees_with_kernels_of_our_own(dtype):
    network = InvertibleNetwork(384, 3, 0.8, device=DEVICE, dtype=dtype)
    x = torch.randn(100, 384, device=DEVICE).to(dtype)
    results = []
    for way in ("dense", "tiles"):
        with route(way):
            gradients = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
            frozen = copy.deepcopy(network).requires_grad_(False)
            results.append((*gradients, frozen.inverse(x)))
    for a, b in zip(*results, strict=True):
        assert (a - b).norm() <= 4 * torch.finfo(dtype).eps * b.norm()
