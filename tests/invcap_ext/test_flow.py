"""Rounded leaky ReLUs, and the network for densities that has them between its layers."""

import pytest
import torch
from layer_references import jacobian, make_case, relative_error
from torch import Tensor, nn

from invcap_ext import InvertibleLinear, InvertibleNetwork
from invcap_ext.flow import InvertibleSequential, RoundedLeakyReLU, flow_network, spread_kinks

SLOPES = (0.01, 0.5, 1.0, 3.0)


def rows(n: int = 5, batch: int = 6) -> Tensor:
    return make_case(n, batch).rows


def make_activation(slope: float, n: int = 5) -> RoundedLeakyReLU:
    return RoundedLeakyReLU(n, slope, corner=0.4).double()


def make_network(n: int = 5, depth: int = 3) -> InvertibleSequential:
    torch.manual_seed(0)
    network = flow_network(n, depth).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)
    return network


@pytest.mark.parametrize("slope", SLOPES)
def test_the_activation_has_the_value_of_its_formula(slope: float) -> None:
    activation, z = make_activation(slope), rows()
    q = (z.square() + 0.4**2).sqrt()
    want = (z + q) / 2 + activation.log_slope.exp() * (z - q) / 2
    assert relative_error(activation(z), want) < 1e-14


@pytest.mark.parametrize("slope", SLOPES)
def test_far_from_its_corner_the_activation_is_a_leaky_relu(slope: float) -> None:
    z = torch.tensor([-1e6, -1e3, 1e3, 1e6], dtype=torch.float64)
    want = nn.functional.leaky_relu(z, slope)
    torch.testing.assert_close(make_activation(slope, 4)(z), want, rtol=1e-4, atol=0)


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("size", (1e-3, 1.0, 1e4))
def test_the_inverse_of_the_activation_is_exact_near_and_far(slope: float, size: float) -> None:
    activation = make_activation(slope).float()
    z = (size * rows(5, 1000)).float()
    there_and_back = activation.inverse(activation(z))
    # Of the numbers themselves, not of the largest: 8e-7 was the most, where |z| is the corner.
    assert ((there_and_back - z).abs() / (z.abs() + 0.4)).max() < 2e-6


@pytest.mark.parametrize("n", (1, 2, 33))
def test_the_inverse_of_a_network_undoes_it(n: int) -> None:
    network = make_network(n)
    y = network(rows(n))
    assert relative_error(y, rows(n)) > 0.1
    assert relative_error(network.inverse(y), rows(n)) < 1e-8


@pytest.mark.parametrize(
    "module", (make_activation(0.3), make_network()), ids=("activation", "network")
)
def test_both_directions_give_the_log_determinant_of_their_autograd_jacobian(module) -> None:
    for name in ("forward", "inverse"):
        result, log_det = getattr(module, f"{name}_and_logdet")(rows().reshape(2, 3, 5))
        plain = getattr(module, name)
        torch.testing.assert_close(result, plain(rows()).reshape(2, 3, 5))
        want = [torch.linalg.slogdet(jacobian(plain, row))[1] for row in rows()]
        torch.testing.assert_close(log_det.flatten(), torch.stack(want))


@pytest.mark.parametrize("name", ("forward_and_logdet", "inverse_and_logdet"))
def test_values_and_log_determinants_have_the_gradients_of_finite_differences(name: str) -> None:
    network = make_network(3, 2)
    parameters = dict(network.named_parameters())

    def of_leaves(x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        replaced = dict(zip(parameters, values, strict=True))
        with torch.nn.utils.stateless._reparametrize_module(network, replaced):
            return getattr(network, name)(x)

    leaves = [rows(3, 2).requires_grad_()]
    leaves += [parameter.detach().clone().requires_grad_() for parameter in parameters.values()]
    assert torch.autograd.gradcheck(of_leaves, leaves)


def test_the_gradient_at_the_corner_itself_is_right() -> None:
    z = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(make_activation(0.3)(z).sum(), z)
    torch.testing.assert_close(got, torch.full_like(z, 0.65))


def test_slopes_start_in_turns_and_the_last_layer_has_no_activation() -> None:
    *inner, last = flow_network(4, 4, negative_slope=0.5)
    slopes = [layer[1].log_slope.exp().unique().item() for layer in inner]
    assert slopes == pytest.approx([0.5, 2, 0.5])
    assert isinstance(last, InvertibleLinear)


def test_a_sequence_takes_any_invertible_module() -> None:
    both = InvertibleSequential(make_network(), InvertibleNetwork(5, 2, dtype=torch.float64))
    assert relative_error(both.inverse(both(rows())), rows()) < 1e-8


def test_kinks_are_spread_over_the_rows() -> None:
    network, x = make_network(2, 4), rows(2, 500)
    spread_kinks(network, x)
    z = x
    for layer in network[:-1]:
        bent = layer[0](z)
        assert (bent == 0).any(0).all()
        z = layer(z)


@pytest.mark.parametrize(
    ("setting", "value"), [("negative_slope", 0.0), ("corner", -1.0), ("corner", float("inf"))]
)
def test_a_wrong_setting_is_named(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be positive and finite, got {value}"):
        flow_network(3, 2, **{setting: value})
