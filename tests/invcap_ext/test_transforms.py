"""Layers and networks as `torch.distributions` transforms, and the gradient of their kinks."""

import math

import pytest
import torch
from layer_references import jacobian, make_case, randomize_, relative_error
from torch import Tensor
from torch.distributions import (
    Independent,
    Normal,
    TransformedDistribution,
    constraints,
    transforms,
)

from invcap_ext import InvertibleLinear, InvertibleNetwork
from invcap_ext import transforms as ours

N = 5


def make_layer() -> InvertibleLinear:
    return InvertibleLinear(N, negative_slope=0.3, scale=True, dtype=torch.float64)


def make_network() -> InvertibleNetwork:
    return InvertibleNetwork(N, 3, negative_slope=0.3, scale=True, dtype=torch.float64)


@pytest.fixture(params=(make_layer, make_network), ids=("layer", "network"))
def module(request):
    made = request.param()
    randomize_(made)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("log_scale"):
                parameter.copy_(torch.linspace(-1, 2, N))
    return made


def rows(*batch: int) -> Tensor:
    return make_case(N, math.prod(batch)).rows.reshape(*batch, N)


def normal() -> Independent:
    return Independent(Normal(torch.zeros(N).double(), torch.ones(N).double()), 1)


def test_values_are_those_of_the_module_and_the_inverse_undoes_them(module) -> None:
    transform = ours.InvertibleTransform(module)
    x = rows(2, 3)
    assert torch.equal(transform(x), module(x))
    assert torch.equal(transform.inv(x), module.inverse(x))
    assert relative_error(transform.inv(transform(x)), x) < 1e-10


def test_it_maps_vectors_to_vectors_and_the_inverse_of_the_inverse_is_itself(module) -> None:
    transform = ours.InvertibleTransform(module)
    assert transform.domain is constraints.real_vector
    assert transform.codomain is constraints.real_vector
    assert transform.event_dim == transform.inv.event_dim == 1
    assert transform.bijective
    assert transform.inv.inv is transform
    assert transform.forward_shape((2, N)) == transform.inverse_shape((2, N)) == (2, N)


def test_log_determinants_of_both_directions_are_those_of_autograd_jacobians(module) -> None:
    transform = ours.InvertibleTransform(module)
    for one in (transform, transform.inv):
        x = rows(2, 3)
        y, log_det = one.call_and_ladj(x)
        want = [torch.linalg.slogdet(jacobian(one, row))[1] for row in x.reshape(-1, N)]
        assert torch.equal(y, one(x))
        torch.testing.assert_close(log_det, torch.stack(want).reshape(2, 3))
        torch.testing.assert_close(one.log_abs_det_jacobian(x, y), log_det)


def test_a_cache_returns_the_very_x_and_computes_everything_in_one_pass(module) -> None:
    transform = ours.InvertibleTransform(module)
    cached = transform.with_cache()
    assert cached.module is module
    assert transform.with_cache(0) is transform
    x = rows(4)
    y = cached(x)
    assert cached.inv(y) is x
    calls = []
    for layer in module.modules():
        layer.register_forward_hook(lambda *_: calls.append(1))
    log_det = cached.log_abs_det_jacobian(x, y)
    assert not calls
    assert torch.equal(log_det, transform.log_abs_det_jacobian(x, y))
    assert calls
    assert torch.equal(
        cached.log_abs_det_jacobian(x + 1, cached(x + 1)), cached.call_and_ladj(x + 1)[1]
    )


def test_with_a_cache_a_sample_is_scored_without_another_pass(module) -> None:
    flow = TransformedDistribution(normal(), [ours.InvertibleTransform(module, cache_size=1)])
    y = flow.rsample((7,))
    want = TransformedDistribution(normal(), [ours.InvertibleTransform(module)]).log_prob(y)
    calls = []
    for layer in module.modules():
        layer.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(flow.log_prob(y), want)
    assert not calls


def test_a_transformed_distribution_in_two_dimensions_integrates_to_one() -> None:
    network = InvertibleNetwork(2, 4, negative_slope=0.5, scale=True)
    randomize_(network)
    with torch.no_grad():
        network.layers[0].log_scale.copy_(torch.tensor([0.5, -0.3]))
        for layer in network.layers:
            layer.lu.mul_(0.5)
    base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    flow = TransformedDistribution(base, [ours.InvertibleTransform(network).inv])
    line = torch.linspace(-40, 40, 641)
    grid = torch.cartesian_prod(line, line)
    mass = flow.log_prob(grid).exp().sum() * (line[1] - line[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=3e-3)


def test_it_composes_with_transforms_of_torch(module) -> None:
    chain = transforms.ComposeTransform(
        [transforms.AffineTransform(1.0, 2.0), ours.InvertibleTransform(module)], cache_size=1
    )
    x = rows(3)
    want = module.forward_and_logdet(1 + 2 * x)[1] + N * math.log(2)
    torch.testing.assert_close(chain.log_abs_det_jacobian(x, chain(x)), want)


def test_the_bandwidth_changes_the_gradient_of_a_log_determinant_and_not_its_value(module) -> None:
    first, *others = getattr(module, "layers", [module])
    _, sharp = module.forward_and_logdet(rows(6))
    for layer in (first, *others):
        layer.bandwidth = 0.4
    _, smooth = module.forward_and_logdet(rows(6))
    bias = first.bias
    assert torch.equal(sharp, smooth)
    assert torch.autograd.grad(sharp.sum(), bias, allow_unused=True) == (None,)
    assert torch.autograd.grad(smooth.sum(), bias)[0].abs().min() > 0


def test_the_smoothed_gradient_is_that_of_the_expectation_over_rows() -> None:
    """P(x + b < 0) falls with b as fast as the density at the kink."""
    x = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = InvertibleLinear(1, negative_slope=0.3, bandwidth=0.1, dtype=torch.float64)
    torch.nn.init.constant_(layer.bias, 0.5)
    _, log_det = layer.forward_and_logdet(x)
    (got,) = torch.autograd.grad(log_det.mean(), layer.bias)
    density = math.exp(-(0.5**2) / 2) / math.sqrt(2 * math.pi)
    # 1.1 % less with this bandwidth.
    assert got.item() == pytest.approx(-math.log(0.3) * density, rel=0.02)


def test_a_network_gives_its_bandwidth_to_its_layers() -> None:
    network = InvertibleNetwork(3, 3, bandwidth=0.2)
    assert [layer.bandwidth for layer in network.layers] == [0.2] * 3
    with pytest.raises(ValueError, match=r"bandwidth must be finite and not negative, got -1"):
        InvertibleNetwork(3, 3, bandwidth=-1)
