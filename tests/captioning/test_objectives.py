import math

import torch

from invcap.captioning.objectives import bidirectional_loss, caption_loss, likelihood_loss
from invcap_ext import InvertibleNetwork


def setup() -> tuple[InvertibleNetwork, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    network = InvertibleNetwork(5, 3, negative_slope=0.3, diagonal=1.2, dtype=torch.float64)
    return network, *torch.randn(2, 7, 5, dtype=torch.float64)


def test_the_caption_loss_is_the_papers_mean_squared_error():
    network, x, e = setup()
    expected = sum(((network(x[i]) - e[i]) ** 2).sum() for i in range(7)) / 35
    torch.testing.assert_close(caption_loss(network, x, e)["caption"], expected)


def test_the_bidirectional_loss_adds_the_error_of_the_inverse():
    network, x, e = setup()
    losses = bidirectional_loss(network, x, e)
    assert list(losses) == ["caption", "generation"]
    expected = (network.inverse(e) - x).square().mean()
    torch.testing.assert_close(losses["generation"], expected)


def test_the_likelihood_is_that_of_a_normal_about_the_embedding_pulled_back_by_the_network():
    network, x, e = setup()
    log_sigma = torch.tensor(-0.4, dtype=torch.float64)
    log_density = 0.0
    for row, target in zip(x, e, strict=True):
        normal = torch.distributions.Normal(target, log_sigma.exp())
        jacobian = torch.autograd.functional.jacobian(network, row)
        log_density += normal.log_prob(network(row)).sum() + torch.linalg.slogdet(jacobian)[1]
    expected = -log_density / 35 - math.log(2 * math.pi) / 2
    loss = likelihood_loss(network, x, e, log_sigma)["likelihood"]
    torch.testing.assert_close(loss, expected)
