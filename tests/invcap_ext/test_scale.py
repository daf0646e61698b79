"""`scale=True`: a learned positive diagonal before the triangles, in both modules."""

import pytest
import torch
from layer_references import jacobian, make_case, randomize_, relative_error
from torch import Tensor

from invcap_ext import InvertibleLinear, InvertibleNetwork, lu_leaky, round_trip

SIZES = (1, 2, 9, 33)


def make_layer(n: int, scale: bool = True, dtype: torch.dtype = torch.float64) -> InvertibleLinear:
    layer = InvertibleLinear(n, diagonal=1.1, negative_slope=0.3, scale=scale, dtype=dtype)
    return randomized(layer)


def make_network(
    n: int, activations: str = "store", scale: bool = True, dtype: torch.dtype = torch.float64
) -> InvertibleNetwork:
    network = InvertibleNetwork(
        n, 3, negative_slope=0.4, activations=activations, scale=scale, dtype=dtype
    )
    return randomized(network)


def randomized(module):
    randomize_(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("log_scale"):
                parameter.copy_(make_case(len(parameter), 1, seed=5).rows[0])
    return module


def rows(n: int, batch: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    return make_case(n, batch, dtype, seed=1).rows


MODULES = {
    "layer": make_layer,
    "network": make_network,
    "recomputing network": lambda n, **settings: make_network(n, "recompute", **settings),
}


@pytest.fixture(params=MODULES.values(), ids=list(MODULES))
def make(request):
    return request.param


def test_a_new_scale_is_one_and_changes_nothing() -> None:
    torch.manual_seed(0)
    scaled = InvertibleNetwork(9, 3, scale=True)
    torch.manual_seed(0)
    plain = InvertibleNetwork(9, 3)
    assert torch.equal(scaled(rows(9, dtype=torch.float32)), plain(rows(9, dtype=torch.float32)))


def test_a_layer_scales_its_input_by_the_exponential_of_log_scale() -> None:
    layer = make_layer(9)
    x = rows(9)
    want = lu_leaky(x * layer.log_scale.exp(), layer.lu, layer.bias, 1.1, 0.3)
    assert torch.equal(layer(x), want)


@pytest.mark.parametrize("grad", (True, False), ids=("layer by layer", "at once"))
@pytest.mark.parametrize("n", SIZES)
def test_the_inverse_undoes_the_scale(make, n: int, grad: bool) -> None:
    module = make(n)
    with torch.set_grad_enabled(grad):
        y = module(rows(n))
        assert relative_error(y, rows(n)) > 0.1
        assert relative_error(module.inverse(y), rows(n)) < 1e-9
        assert relative_error(module(module.inverse(rows(n))), rows(n)) < 1e-9


@pytest.mark.parametrize("n", SIZES)
def test_both_directions_give_the_log_determinant_of_their_autograd_jacobian(make, n: int) -> None:
    module = make(n)
    for name in ("forward", "inverse"):
        result, log_det = getattr(module, f"{name}_and_logdet")(rows(n).reshape(2, 3, n))
        plain = getattr(module, name)
        assert relative_error(result, plain(rows(n)).reshape(2, 3, n)) < 1e-12
        want = [torch.linalg.slogdet(jacobian(plain, row))[1] for row in rows(n)]
        torch.testing.assert_close(log_det.flatten(), torch.stack(want), rtol=1e-9, atol=1e-9)


def test_the_log_determinant_is_computed_in_float32_at_least(make) -> None:
    module = make(33, dtype=torch.bfloat16)
    _, log_det = module.forward_and_logdet(rows(33, dtype=torch.bfloat16))
    assert log_det.dtype == torch.float32


@pytest.mark.parametrize("name", ("forward", "inverse"))
def test_the_scale_gets_the_gradient_of_finite_differences(make, name: str) -> None:
    module = make(5)
    (log_scale,) = (p for key, p in module.named_parameters() if key.endswith("log_scale"))
    keys = {id(p): key for key, p in module.named_parameters()}

    def of_log_scale(values: Tensor) -> tuple[Tensor, Tensor]:
        replaced = {keys[id(log_scale)]: values}
        with torch.nn.utils.stateless._reparametrize_module(module, replaced):
            return getattr(module, f"{name}_and_logdet")(rows(5, 3))

    leaf = log_scale.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(of_log_scale, leaf)


def test_one_scale_serves_a_network_and_the_state_holds_it() -> None:
    keys = make_network(9).state_dict().keys()
    assert [key for key in keys if "log_scale" in key] == ["layers.0.log_scale"]
    assert not any("log_scale" in key for key in make_network(9, scale=False).state_dict())


def test_a_saved_scale_is_loaded(make) -> None:
    module, other = make(9), make(9)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(rows(9)), module(rows(9)))


def test_scales_of_further_layers_are_a_network_with_other_triangles_and_one_scale() -> None:
    """D passes through a leaky ReLU, and D L = (D L D^-1) D passes through a triangle."""
    first, second = make_layer(9), make_layer(9)
    scale = second.log_scale.detach().exp()
    moved = make_layer(9)
    with torch.no_grad():
        moved.lu.copy_(scale[:, None] * first.lu / scale)
        moved.bias.copy_(scale * first.bias)
        moved.log_scale.copy_(first.log_scale + second.log_scale)
        want = second(first(rows(9)))
        second.log_scale.zero_()
        assert relative_error(second(moved(rows(9))), want) < 1e-12


def test_the_round_trip_counts_the_scale() -> None:
    layer = InvertibleLinear(3, negative_slope=0.5, scale=True, dtype=torch.float64)
    with torch.no_grad():
        layer.lu.zero_()
        layer.log_scale.copy_(torch.tensor([0.01, 1.0, 10.0]).log())
    measured = round_trip(layer, rows(3)).layers[0]
    assert measured.condition_number == pytest.approx(1000)
    assert measured.amplification == pytest.approx(200)
