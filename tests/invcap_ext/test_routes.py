"""Every way that a layer can take gives what the dense float64 twin gives."""

import pytest
import torch
from layer_references import FUNCTIONS, dense_lu_leaky, make_case, randomize_, relative_error

from invcap_ext import InvertibleLinear, InvertibleNetwork, lu_leaky, route
from invcap_ext._C import dense_rows, kept_rows

WAYS = ("dense", "fused", "tiles")
CPU = torch.device("cpu")
OPERATOR = torch.ops.invcap.lu_leaky.default
BACKWARD = torch.ops.invcap.lu_leaky_backward.default
# Largest relative errors of values and gradients, over the cases below: 5.6e-15, 1.7e-6, 6.6e-3 and
# 7.1e-4. In half precision L U and its gradient are rounded, which kernels of our own never form.
TOLERANCE = {
    torch.float64: 3e-14,
    torch.float32: 5e-6,
    torch.bfloat16: 1.5e-2,
    torch.float16: 2e-3,
}


def outcome(function, case, grad):
    """Value and gradients."""
    case, leaves = case.leaves()
    result = function(*case.arguments)
    return result.detach(), *torch.autograd.grad(result, leaves, grad)


def operators(function) -> list[str]:
    """Names of the operators of this package that a call reaches, without graphs."""
    seen = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            seen.append(str(operator))
            return operator(*args, **(kwargs or {}))

    with Recorder():
        function()
    return seen


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
# One block, a block and one more, three blocks.
@pytest.mark.parametrize(("n", "rows"), ((1, 7), (2, 1), (33, 65), (128, 7), (129, 40), (300, 40)))
def test_every_way_gives_the_values_and_gradients_of_the_dense_float64_twin(
    name: str, way: str, dtype: torch.dtype, n: int, rows: int
) -> None:
    function, dense = FUNCTIONS[name]
    case = make_case(n, rows, dtype)
    y = dense(*case.double().arguments) if name == "lu_leaky" else case.rows
    # Where y is near zero, rounding may decide its sign.
    grad = make_case(n, rows, dtype, seed=1).rows * (y.abs() > 0.05)
    want = outcome(dense, case.double(), grad.double())
    with route(way):
        got = outcome(function, case, grad)
    for got_one, want_one in zip(got, want, strict=True):
        assert got_one.dtype == dtype
        assert relative_error(got_one, want_one) < TOLERANCE[dtype]


@pytest.mark.parametrize("shape", ((), (0,), (1,), (2, 3)))
@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no_bias"))
@pytest.mark.parametrize("negative_slope", (0.3, 1.0, 2.0))
def test_the_dense_way_takes_rows_of_any_shape(shape, bias, negative_slope) -> None:
    case = make_case(33, 6, negative_slope=negative_slope, diagonal=-0.8, bias=bias)
    numbers = torch.Size(shape).numel()
    x = case.rows[:numbers].reshape(*shape, 33).requires_grad_()
    with route("dense"):
        y = lu_leaky(x, *case.arguments[1:])
        (grad,) = torch.autograd.grad(y.sum(), x)
    want = dense_lu_leaky(x, *case.arguments[1:])
    (want_grad,) = torch.autograd.grad(want.sum(), x)
    assert y.shape == x.shape and relative_error(y, want) < 1e-13
    assert relative_error(grad, want_grad) < 1e-13


def test_the_dense_way_ignores_the_diagonal_of_lu_and_gives_it_no_gradient() -> None:
    case = make_case(200, 7)
    grad = make_case(200, 7, seed=1).rows
    with route("dense"):
        want = outcome(lu_leaky, case, grad)
        case.lu.fill_diagonal_(torch.nan)
        got = outcome(lu_leaky, case, grad)
    assert (got[2].diagonal() == 0).all() and (got[2] != 0).any()
    for got_one, want_one in zip(got, want, strict=True):
        assert torch.equal(got_one, want_one)


def test_the_gradient_at_zero_is_one_whichever_way_a_layer_takes() -> None:
    layer = InvertibleLinear(9, negative_slope=0.3)
    x = torch.zeros(3, 9, requires_grad=True)
    grads = []
    for way in WAYS:
        with route(way):
            grads.append(torch.autograd.grad(layer(x).sum(), layer.bias)[0])
    assert all(torch.equal(grad, torch.full((9,), 3.0)) for grad in grads)


def test_gradcheck_and_gradgradcheck_pass_the_dense_way() -> None:
    case, leaves = make_case(5, 3).leaves()

    def of_leaves(*leaves):
        return lu_leaky(*leaves, case.diagonal, case.negative_slope)

    with route("dense"):
        assert torch.autograd.gradcheck(of_leaves, leaves)
        assert torch.autograd.gradgradcheck(of_leaves, leaves)


@pytest.mark.parametrize("direction", ("forward", "inverse"))
def test_recomputed_activations_give_the_gradients_of_stored_ones_the_dense_way(direction) -> None:
    outcomes = []
    for activations in ("store", "recompute"):
        network = InvertibleNetwork(33, 3, 0.4, activations=activations, dtype=torch.float64)
        randomize_(network)
        x = make_case(33, 7).rows.requires_grad_()
        with route("dense"):
            result = getattr(network, direction)(x)
            outcomes.append(torch.autograd.grad(result.square().sum(), [x, *network.parameters()]))
    for got, want in zip(*outcomes, strict=True):
        assert relative_error(got, want) < 1e-12


def test_a_network_without_gradients_is_its_layers_the_dense_way() -> None:
    network = InvertibleNetwork(33, 3, 0.4)
    randomize_(network)
    x = make_case(33, 7, torch.float32).rows
    with route("dense"):
        want = network(x)
        with torch.no_grad():
            assert torch.equal(network(x), want)


@pytest.mark.slow
@pytest.mark.parametrize("rows", (0, 3))
def test_opcheck_passes_the_dense_way(rows: int) -> None:
    case, _ = make_case(5, rows).leaves()
    with route("dense"):
        torch.library.opcheck(OPERATOR, case.arguments)
        y, weight = OPERATOR(*case.arguments)
        assert weight.shape == (25,)
        tensors = [
            tensor.detach().requires_grad_() for tensor in (y, case.rows, y, weight, case.lu)
        ]
        torch.library.opcheck(BACKWARD, (*tensors, case.diagonal, case.negative_slope))


@pytest.mark.slow
def test_a_layer_compiles_as_one_graph_the_dense_way() -> None:
    torch._dynamo.reset()
    layer = InvertibleLinear(33)
    randomize_(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with route("dense"):
        for rows in (7, 12):
            x = make_case(33, rows, torch.float32).rows.requires_grad_()
            leaves = [x, *layer.parameters()]
            got = torch.autograd.grad(compiled(x).square().sum(), leaves)
            want = torch.autograd.grad(layer(x).square().sum(), leaves)
            for got_one, want_one in zip(got, want, strict=True):
                assert relative_error(got_one, want_one) < 1e-5
    torch._dynamo.reset()


def test_a_way_is_forced_inside_its_block_alone() -> None:
    chosen = dense_rows(1024, torch.float32, CPU)
    with pytest.raises(RuntimeError, match="on purpose"), route("dense"):
        assert dense_rows(1024, torch.float32, CPU) == 0
        with route("tiles"):
            assert dense_rows(1024, torch.float32, CPU) > 2**60
        assert dense_rows(1024, torch.float32, CPU) == 0
        raise RuntimeError("on purpose")
    assert dense_rows(1024, torch.float32, CPU) == chosen


def test_an_unknown_way_is_named() -> None:
    with pytest.raises(ValueError, match="way must be 'dense', 'fused' or 'tiles', got 'slow'"):
        route("slow").__enter__()


def test_the_table_sends_many_rows_of_large_layers_the_dense_way() -> None:
    gpu = torch.device("cuda")
    assert dense_rows(1024, torch.float32, CPU) == 8192
    assert dense_rows(2048, torch.float64, CPU) == 8192
    assert dense_rows(8192, torch.float64, CPU) == 16384
    assert dense_rows(64, torch.float32, CPU) > 2**60
    assert dense_rows(1024, torch.bfloat16, gpu) == 1024
    assert dense_rows(4096, torch.bfloat16, gpu) == 4096
    assert dense_rows(384, torch.bfloat16, gpu) == 16384
    assert kept_rows(1024, torch.float32, CPU) == 2048
    assert kept_rows(1024, torch.float64, CPU) > 2**60
    assert kept_rows(1024, torch.bfloat16, gpu) == 0


def test_tf32_on_a_gpu_stays_with_kernels_that_keep_float32() -> None:
    gpu = torch.device("cuda")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert dense_rows(1024, torch.float32, gpu) > 2**60
        assert kept_rows(1024, torch.float32, gpu) > 2**60
        assert dense_rows(1024, torch.float16, gpu) == 1024
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_many_rows_take_the_dense_way_and_few_do_not(dtype: torch.dtype) -> None:
    layer = InvertibleLinear(256, dtype=dtype)
    for rows, kept in ((8191, 8191 * 256), (8192, 256 * 256)):
        x = torch.randn(rows, 256, dtype=dtype)
        _, beside = OPERATOR(x, layer.lu, layer.bias, 1.0, 0.1)
        assert beside.numel() == kept
