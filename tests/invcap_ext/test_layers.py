"""`InvertibleLinear` and `InvertibleNetwork`: log-determinants, memory, saving, dtypes."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
from layer_references import dense_weight, jacobian, make_case, randomize_, relative_error
from torch import Tensor, nn

from invcap_ext import InvertibleLinear, InvertibleNetwork, lu_leaky, lu_leaky_inverse

DIRECTIONS = ("forward", "inverse")
# Rows of 33 numbers that go back in more than one part on a CPU: 2^19 numbers are a part.
MANY = 20_000


def make_layer(n: int = 33, **settings) -> InvertibleLinear:
    layer = InvertibleLinear(n, dtype=torch.float64, **settings)
    randomize_(layer)
    return layer


def make_network(n: int = 33, depth: int = 4, **settings) -> InvertibleNetwork:
    settings = {"negative_slope": 0.4, "dtype": torch.float64, **settings}
    network = InvertibleNetwork(n, depth, **settings)
    randomize_(network)
    return network


def both_activations(**settings) -> tuple[InvertibleNetwork, InvertibleNetwork]:
    """The same network storing and recomputing its activations."""
    return tuple(make_network(activations=kind, **settings) for kind in ("store", "recompute"))


def rows(batch: int = 7, n: int = 33, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return make_case(n, batch, dtype, seed=seed).rows


@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no_bias"))
def test_a_layer_is_lu_leaky_with_its_parameters_and_settings(bias: bool) -> None:
    layer = make_layer(bias=bias, diagonal=1.3, negative_slope=0.2)
    x = rows()
    settings = layer.lu, layer.bias, 1.3, 0.2
    assert (layer.bias is not None) == bias
    assert torch.equal(layer(x), lu_leaky(x, *settings))
    assert torch.equal(layer.inverse(x), lu_leaky_inverse(x, *settings))


def test_lower_upper_and_weight_are_the_dense_factors_and_their_product() -> None:
    layer = make_layer(5, diagonal=-0.7)
    for factor, triangle in ((layer.lower, torch.tril), (layer.upper, torch.triu)):
        assert torch.equal(factor, triangle(factor))
        assert torch.equal(factor.diagonal(), torch.full((5,), -0.7, dtype=torch.float64))
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    assert torch.equal((layer.lower + layer.upper)[off_diagonal], layer.lu[off_diagonal])
    torch.testing.assert_close(layer.weight, dense_weight(layer.lu, -0.7))
    layer.weight.sum().backward()
    assert (layer.lu.grad.diagonal() == 0).all()


def test_a_new_layer_has_a_moderate_inverse_whatever_its_size() -> None:
    for n in (1, 2, 33, 384):
        layer = InvertibleLinear(n, diagonal=1.7, dtype=torch.float64)
        for factor in (layer.lower, layer.upper):
            row_sums = torch.linalg.inv(factor).abs().sum(1)
            assert row_sums.max() < torch.e / 1.7


@pytest.mark.parametrize("diagonal", (1.0, -0.8, 1.5))
def test_the_log_determinant_of_a_layer_is_that_of_its_autograd_jacobian_row_by_row(
    diagonal: float,
) -> None:
    layer = make_layer(9, diagonal=diagonal, negative_slope=0.2)
    x = rows(6, 9)
    want = torch.stack([torch.linalg.slogdet(jacobian(layer, row))[1] for row in x])
    got = layer.log_abs_det_jacobian(x, layer(x))
    assert want.unique().numel() > 1
    torch.testing.assert_close(got, want.to(got.dtype), rtol=1e-6, atol=1e-6)


def test_the_log_determinant_of_a_network_is_that_of_its_autograd_jacobian_row_by_row() -> None:
    network = make_network(9, diagonal=1.1)
    x = rows(6, 9)
    want = torch.stack([torch.linalg.slogdet(jacobian(network, row))[1] for row in x])
    got = network.log_abs_det_jacobian(x.reshape(2, 3, 9))
    assert want.unique().numel() > 1
    torch.testing.assert_close(got.flatten(), want.to(got.dtype), rtol=1e-6, atol=1e-6)


def test_the_last_layer_of_a_network_has_no_activation() -> None:
    network = make_network(depth=3, negative_slope=0.4)
    assert [layer.negative_slope for layer in network.layers] == [0.4, 0.4, 1.0]


@pytest.mark.parametrize("activations", ("store", "recompute"))
def test_a_network_is_its_layers_in_order_and_its_inverse_theirs_in_reverse(
    activations: str,
) -> None:
    network = make_network(depth=3, activations=activations)
    x = rows()
    first, second, third = network.layers
    assert torch.equal(network(x), third(second(first(x))))
    assert torch.equal(network.inverse(x), first.inverse(second.inverse(third.inverse(x))))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "shape",
    ((33,), (0, 33), (7, 33), (2, 3, 33), pytest.param((2, MANY, 33), marks=pytest.mark.slow)),
    ids=str,
)
def test_recomputed_activations_give_the_values_and_gradients_of_stored_ones(
    direction: str, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grad = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outcomes = []
    for network in both_activations(diagonal=1.1):
        leaf = x.clone().requires_grad_()
        result = getattr(network, direction)(leaf)
        grads = torch.autograd.grad(result, [leaf, *network.parameters()], grad)
        outcomes.append((result, *grads))
    stored, recomputed = outcomes
    assert torch.equal(stored[0], recomputed[0])
    for got, want in zip(recomputed[1:], stored[1:], strict=True):
        # The rounding of the way back, amplified by the layers it passed: 9.6e-14 was the most.
        assert relative_error(got, want) < 1e-12


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_without_gradients_a_network_gives_the_same_in_one_operator(direction: str) -> None:
    network = make_network(negative_slope=0.6, diagonal=1.1)
    network.layers[1].diagonal = 0.9
    run = getattr(network, direction)
    want = run(rows())
    operators = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            operators.append(str(operator))
            return operator(*args, **(kwargs or {}))

    with torch.no_grad(), Recorder():
        got = run(rows())
    assert torch.equal(got, want)
    assert [name for name in operators if "invcap" in name] == ["invcap.lu_leaky_network.default"]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("batch", (5, pytest.param(MANY, marks=pytest.mark.slow)))
def test_second_derivatives_through_recomputed_activations_are_those_of_stored_ones(
    direction: str, batch: int
) -> None:
    x, along = rows(batch), rows(batch, seed=2)
    outcomes = []
    for network in both_activations(depth=3):
        leaf = x.clone().requires_grad_()
        loss = getattr(network, direction)(leaf).square().sum()
        (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
        outcomes.append(torch.autograd.grad((first * along).sum(), [leaf, *network.parameters()]))
    stored, recomputed = outcomes
    for got, want in zip(recomputed, stored, strict=True):
        assert want.abs().max() > 0
        assert relative_error(got, want) < 1e-10


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradcheck_and_gradgradcheck_pass_with_recomputed_activations(direction: str) -> None:
    network = make_network(4, 3, activations="recompute")
    parameters = dict(network.named_parameters())

    def of_leaves(x: Tensor, *values: Tensor) -> Tensor:
        replaced = dict(zip(parameters, values, strict=True))
        with torch.nn.utils.stateless._reparametrize_module(network, replaced):
            return getattr(network, direction)(x)

    leaves = [rows(2, 4).requires_grad_()]
    leaves += [parameter.detach().clone().requires_grad_() for parameter in parameters.values()]
    assert torch.autograd.gradcheck(of_leaves, leaves)
    assert torch.autograd.gradgradcheck(of_leaves, leaves)


def saved_rows(network: InvertibleNetwork, direction: str, x: Tensor) -> int:
    """Number of tensors as large as x that a pass keeps for backward, each counted once."""
    kept = set()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.shape == x.shape:
            kept.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = getattr(network, direction)(x)
    assert result.requires_grad
    return len(kept)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_recomputed_activations_keep_one_tensor_of_rows_whatever_the_depth(direction: str) -> None:
    for depth in (2, 8):
        stored, recomputed = both_activations(depth=depth)
        assert saved_rows(recomputed, direction, rows()) == 1
        assert saved_rows(stored, direction, rows()) == 2 * depth + 1


def test_a_parameter_or_an_input_without_gradient_costs_the_others_nothing() -> None:
    for network in both_activations(depth=2):
        network.layers[0].lu.requires_grad_(False)
        network.layers[1].bias.requires_grad_(False)
        network(rows()).sum().backward()
        grads = [parameter.grad is not None for parameter in network.parameters()]
        assert grads == [False, True, True, False]
        leaf = rows().requires_grad_()
        network.requires_grad_(False)
        network.inverse(leaf).sum().backward()
        assert leaf.grad is not None


@pytest.mark.parametrize("activations", ("store", "recompute"))
def test_training_moves_the_parameters_that_the_next_call_uses(activations: str) -> None:
    network = make_network(activations=activations)
    x = rows()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    before_y, before_x = network(x), network.inverse(x)
    before_y.square().mean().backward()
    optimizer.step()
    y = network(x)
    assert relative_error(y, before_y) > 1e-5
    assert relative_error(network.inverse(x), before_x) > 1e-5
    assert relative_error(network.inverse(y), x) < 1e-10


@pytest.mark.parametrize(
    "make", (make_layer, make_network), ids=("InvertibleLinear", "InvertibleNetwork")
)
def test_a_saved_state_gives_another_module_the_same_results(make, tmp_path: Path) -> None:
    module = make()
    torch.save(module.state_dict(), tmp_path / "state.pt")
    other = make()
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other(rows())  # whatever a call may cache has to go
    other.inverse(rows())
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other(rows()), module(rows()))
    assert torch.equal(other.inverse(rows()), module.inverse(rows()))


def test_the_state_of_a_layer_is_lu_and_bias_and_nothing_else() -> None:
    assert list(make_layer().state_dict()) == ["lu", "bias"]
    assert list(make_layer(bias=False).state_dict()) == ["lu"]


@pytest.mark.parametrize(
    "make", (make_layer, make_network), ids=("InvertibleLinear", "InvertibleNetwork")
)
def test_a_deep_copy_gives_the_same_results_and_shares_nothing(make) -> None:
    module = make()
    y, x = module(rows()), module.inverse(rows())
    clone = copy.deepcopy(module)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(clone(rows()), y)
    assert torch.equal(clone.inverse(rows()), x)
    assert not torch.equal(module.inverse(rows()), x)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("activations", ("store", "recompute"))
def test_a_module_moved_to_another_dtype_computes_in_it(
    activations: str, dtype: torch.dtype
) -> None:
    network = make_network(depth=2, activations=activations)
    network.inverse(network(rows()))
    moved = copy.deepcopy(network).to(dtype)
    x = rows(dtype=dtype)
    for direction in DIRECTIONS:
        got = getattr(moved, direction)(x)
        assert got.dtype == dtype
        want = getattr(network.to(dtype).double(), direction)(x.double())
        # Two layers: 1.5 roundings in float32 and 0.44 in half precision were the most.
        assert relative_error(got, want) < 5 * torch.finfo(dtype).eps
    got.sum().backward()
    assert all(parameter.grad.dtype == dtype for parameter in moved.parameters())


def test_a_network_builds_on_the_meta_device_and_is_filled_later() -> None:
    network = InvertibleNetwork(33, 2, device="meta")
    assert network(torch.empty(7, 33, device="meta")).shape == (7, 33)
    source = make_network(depth=2, negative_slope=0.1, dtype=torch.float32)
    network.load_state_dict(source.state_dict(), assign=True)
    x = rows(dtype=torch.float32)
    assert torch.equal(network(x), source(x))


def test_repr_shows_the_settings() -> None:
    shown = repr(InvertibleNetwork(3, 2, negative_slope=0.4, diagonal=1.5, activations="recompute"))
    assert "activations='recompute'" in shown
    assert "features=3, bias=True, diagonal=1.5, negative_slope=0.4" in shown


def fitted_network(depth: int, steps: int) -> tuple[InvertibleNetwork, Tensor]:
    """A float32 network trained on a nonlinear target, and fresh rows like those it was shown."""
    generator = torch.Generator().manual_seed(0)
    network = InvertibleNetwork(16, depth, negative_slope=0.5)
    randomize_(network)
    with torch.no_grad():
        for layer in network.layers:
            layer.lu.mul_(0.3)
    mix = torch.randn(16, 16, generator=generator) / 4
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        x = torch.randn(128, 16, generator=generator)
        loss = (network(x) - (x + torch.tanh(x @ mix))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    return network.requires_grad_(False), torch.randn(512, 16, generator=generator)


@pytest.mark.slow
def test_eight_layers_after_real_training_invert_themselves_within_the_error_bound() -> None:
    network, x = fitted_network(depth=8, steps=400)
    y = network(x)
    assert relative_error(y, x) > 0.1
    # One rounding of every layer's output, amplified by all that inverts it, in float64.
    wide = copy.deepcopy(network).double()
    outputs = itertools.accumulate(wide.layers, lambda rows, layer: layer(rows), initial=x.double())
    bound = torch.zeros(len(x), dtype=torch.float64)
    amplification = torch.ones(len(x), dtype=torch.float64)
    for layer, before in zip(wide.layers, outputs, strict=False):
        weight, inner = layer.weight, before @ layer.upper.T
        slope = torch.where(layer(before) < 0, 1 / layer.negative_slope, 1.0)
        inverse = torch.linalg.inv(weight) * slope[:, None, :]
        amplification = amplification * torch.linalg.matrix_norm(inverse, 2)
        size = inner.abs() @ layer.lower.abs().T + layer.bias.abs()
        bound += amplification * size.norm(dim=1)
    error = (network.inverse(y) - x).norm(dim=1)
    assert (error < torch.finfo(torch.float32).eps * bound).all()
    # 8.9e-4 was the most of 512 rows, and 0.014 of the bound.
    assert error.max() < 1e-3
