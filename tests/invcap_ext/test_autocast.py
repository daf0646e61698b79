"""Under autocast the operators run in its dtype, and master weights stay float32."""

import pytest
import torch
from layer_references import FUNCTIONS, make_case, randomize_, relative_error
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from invcap_ext import InvertibleLinear, InvertibleNetwork

HALVES = (torch.bfloat16, torch.float16)
DIRECTIONS = ("forward", "inverse")
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)
each_activations = pytest.mark.parametrize("activations", ("store", "recompute"))
each_function = pytest.mark.parametrize("name", FUNCTIONS)


class Dtypes(TorchDispatchMode):
    """Records the dtypes of all tensors that each operator of ours takes."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace == "invcap":
            leaves = torch.utils._pytree.tree_leaves(args)
            dtypes = {leaf.dtype for leaf in leaves if isinstance(leaf, Tensor)}
            self.of.setdefault(operator._opname, set()).update(dtypes)
        return operator(*args, **(kwargs or {}))


def make_network(activations: str, n: int = 33) -> InvertibleNetwork:
    """Moderate weights and slope: rounding is amplified little, and a z near 0 changes little."""
    network = InvertibleNetwork(n, 3, negative_slope=0.8, activations=activations)
    randomize_(network)
    with torch.no_grad():
        for layer in network.layers:
            layer.lu.mul_(0.3)
    return network


def rows(batch: int = 7, n: int = 33, dtype: torch.dtype = torch.float32) -> Tensor:
    return make_case(n, batch, dtype).rows


def error(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want|, Euclidean."""
    return ((got - want).norm() / want.norm()).item()


def step(network: InvertibleNetwork, run, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Result of run(x), and gradients by x and by network's parameters."""
    leaf = x.clone().requires_grad_()
    result = run(leaf)
    return result, list(
        torch.autograd.grad(result.float().square().sum(), [leaf, *network.parameters()])
    )


@each_half
@each_direction
@each_activations
def test_every_operator_of_a_step_takes_the_autocast_dtype(activations, direction, dtype) -> None:
    network = make_network(activations)
    with Dtypes() as seen:
        with torch.autocast("cpu", dtype):
            result = getattr(network, direction)(rows())
        result.sum().backward()
    forward, back = ("lu_leaky", "lu_leaky_inverse")[:: 1 if direction == "forward" else -1]
    expected = {f"{forward}_backward", forward}
    if activations == "recompute":
        expected = {f"{forward}_backward", "lu_leaky_network", back}
    assert seen.of == {name: {dtype} for name in expected}
    assert result.dtype == dtype


@each_direction
def test_a_pass_without_gradients_runs_in_the_autocast_dtype(direction) -> None:
    network = make_network("store")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Dtypes() as seen:
        result = getattr(network, direction)(rows())
    assert seen.of == {"lu_leaky_network": {torch.bfloat16}} and result.dtype == torch.bfloat16


@each_half
@each_direction
@each_activations
def test_values_and_gradients_are_near_those_of_float32(activations, direction, dtype) -> None:
    network = make_network(activations)
    run = getattr(network, direction)
    want, want_gradients = step(network, run, rows())
    with torch.autocast("cpu", dtype):
        got, got_gradients = step(network, run, rows())
    assert got.dtype == dtype
    # Of 60 draws, values were off by 0.25 to 0.47 eps, gradients by 0.024 at most (a z near 0 may
    # change its sign, and its row's slope).
    assert 0.1 < error(got, want) / torch.finfo(dtype).eps < 1
    for got_one, want_one in zip(got_gradients, want_gradients, strict=True):
        assert got_one.dtype == torch.float32
        assert error(got_one, want_one) < 0.05


@pytest.mark.slow
@each_direction
def test_gradients_of_25_parts_of_the_rows_are_summed_in_float32(direction) -> None:
    x = rows(200_000, 64)
    errors = {}
    for activations in ("store", "recompute"):
        network = make_network(activations, 64)
        run = getattr(network, direction)
        _, *want = step(network, run, x)[1]
        with torch.autocast("cpu", torch.bfloat16):
            _, *got = step(network, run, x)[1]
        errors[activations] = [error(*pair) for pair in zip(got, want, strict=True)]
    # 0.87 to 1.05 times as large; 2.1 to 5.9 times, were the sum rounded after each part.
    for stored, recomputed in zip(*errors.values(), strict=True):
        assert recomputed < 1.3 * stored


@each_function
def test_single_operators_cast_whatever_half_or_float32_they_get(name) -> None:
    function, _ = FUNCTIONS[name]
    case = make_case(33, 7, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        want = function(*case.arguments)
        for first in HALVES:
            assert function(case.rows.to(first), *case.arguments[1:]).dtype == torch.bfloat16
        without_bias = function(case.rows, case.lu, None, *case.arguments[3:])
    cast = [a.bfloat16() if isinstance(a, Tensor) else a for a in case.arguments]
    assert torch.equal(want, function(*cast))
    assert without_bias.dtype == torch.bfloat16


@each_function
def test_float64_is_left_alone_as_by_a_dense_layer(name) -> None:
    function, _ = FUNCTIONS[name]
    case = make_case(33, 7, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert nn.functional.linear(case.rows, case.lu).dtype == torch.float64
        got = function(*case.arguments)
    assert torch.equal(got, function(*case.arguments))


@each_activations
def test_a_region_without_autocast_inside_of_one_computes_in_float32(activations) -> None:
    network = make_network(activations)
    want = network(rows())
    with torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            got = network(rows())
        assert network(rows()).dtype == torch.bfloat16
    assert torch.equal(got, want)


@each_direction
@each_activations
def test_backward_takes_the_dtype_of_its_forward_wherever_it_is_called(
    activations, direction
) -> None:
    network = make_network(activations)
    run = getattr(network, direction)
    parameters = list(network.parameters())

    def gradients(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, parameters)

    want = gradients(run(rows()).sum())
    loss = run(rows()).sum()
    with torch.autocast("cpu", torch.bfloat16):
        got = gradients(loss)
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


@each_activations
def test_a_penalty_on_gradients_trains_under_autocast(activations) -> None:
    network = make_network(activations)

    def penalty() -> Tensor:
        x = rows().requires_grad_()
        (slope,) = torch.autograd.grad(network(x).float().sum(), x, create_graph=True)
        return slope.square().sum()

    want = torch.autograd.grad(penalty(), network.layers[0].lu)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = penalty()
    got = torch.autograd.grad(loss, network.layers[0].lu)[0]
    assert got.dtype == torch.float32
    assert error(got, want) < 0.05


def test_autocast_goes_through_dense_and_invertible_layers() -> None:
    model = nn.Sequential(nn.Linear(5, 33), InvertibleLinear(33), nn.Linear(33, 2))
    with torch.autocast("cpu", torch.bfloat16), Dtypes() as seen:
        model(torch.randn(7, 5)).sum().backward()
    assert set.union(*seen.of.values()) == {torch.bfloat16}
    for parameter in model.parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert parameter.grad.abs().sum() > 0


def test_the_log_determinant_under_autocast_is_float32() -> None:
    network = make_network("store")
    with torch.autocast("cpu", torch.bfloat16):
        got = network.log_abs_det_jacobian(rows())
    assert got.dtype == torch.float32


@pytest.mark.slow
@each_activations
@each_direction
def test_a_compiled_step_under_autocast_is_that_of_eager_mode(activations, direction) -> None:
    network = make_network(activations)

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return getattr(network, direction)(x)

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    want, want_gradients = step(network, run, rows())
    got, got_gradients = step(network, compiled, rows())
    assert got.dtype == torch.bfloat16
    assert relative_error(got.float(), want.float()) < 1e-5
    for got_one, want_one in zip(got_gradients, want_gradients, strict=True):
        assert got_one.dtype == torch.float32
        assert relative_error(got_one, want_one) < 1e-5


@pytest.mark.slow
@each_function
def test_opcheck_passes_under_autocast(name) -> None:
    operator = getattr(torch.ops.invcap, name).default
    case, _ = make_case(5, 3, torch.float32).leaves()
    with torch.autocast("cpu", torch.bfloat16):
        torch.library.opcheck(operator, case.arguments, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("gradients", (True, False))
@each_direction
def test_fake_tensors_of_a_gpu_follow_the_autocast_of_a_gpu(direction, gradients) -> None:
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)  # torch.autocast("cuda") asks for a GPU
    try:
        with FakeTensorMode(), torch.set_grad_enabled(gradients):
            arguments = [torch.empty(2, 3, device="cuda"), torch.empty(3, 3, device="cuda")]
            function = FUNCTIONS["lu_leaky" if direction == "forward" else "lu_leaky_inverse"][0]
            assert function(*arguments).dtype == torch.bfloat16
            assert function(*(a.double() for a in arguments)).dtype == torch.float64
    finally:
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", dtype)
