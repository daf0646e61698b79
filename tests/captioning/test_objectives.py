import math

import torch

from invcap.captioning.contrast import TEMPERATURE, contrastive_loss
from invcap.captioning.objectives import likelihood_loss, pair_losses
from invcap.captioning.residual import draw_directions, sliced_distance
from invcap_ext import InvertibleNetwork


def setup() -> tuple[InvertibleNetwork, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    network = InvertibleNetwork(5, 3, negative_slope=0.3, diagonal=1.2, dtype=torch.float64)
    return network, *torch.randn(2, 7, 5, dtype=torch.float64)


NONE = dict.fromkeys(("generation", "contrastive", "robust_inverse", "residual"), 0.0)


def test_the_caption_term_is_the_papers_mean_squared_error():
    network, x, e = setup()
    losses = pair_losses(network, {"x": x, "e": e}, NONE)
    expected = sum(((network(x[i]) - e[i]) ** 2).sum() for i in range(7)) / 35
    assert list(losses) == ["caption"]
    torch.testing.assert_close(losses["caption"], expected)


def test_a_caption_of_fewer_numbers_is_the_first_outputs_and_draws_with_residual_zero():
    network, x, e = setup()
    e = e[:, :3]
    losses = pair_losses(network, {"x": x, "e": e}, {**NONE, "generation": 1.0})
    y = torch.cat([e, torch.zeros(7, 2, dtype=e.dtype)], 1)
    torch.testing.assert_close(losses["caption"], (network(x)[:, :3] - e).square().mean())
    torch.testing.assert_close(losses["generation"], (network.inverse(y) - x).square().mean())


def test_variations_are_the_residuals_first_numbers_and_the_inverse_draws_by_them():
    network, x, e = setup()
    w, z = torch.randn(2, 7, 2, dtype=x.dtype)
    directions = draw_directions((2, 2), 16, torch.Generator()).double()
    batch = {"x": x, "e": e[:, :2], "w": w, "z": z, "directions": directions}
    losses = pair_losses(network, batch, {**NONE, "generation": 1.0, "residual": 1.0})
    r, zeros = network(x)[:, 2:4], torch.zeros(7, 1, dtype=x.dtype)
    drawn = network.inverse(torch.cat([e[:, :2], r + w, zeros], 1))
    torch.testing.assert_close(losses["generation"], (drawn - x).square().mean())
    rows = (torch.cat([e[:, :2], part], 1) for part in (r, z))
    torch.testing.assert_close(losses["residual"], sliced_distance(*rows, directions))


def test_an_expected_latent_takes_the_place_of_the_images_own_in_generation_alone():
    network, x, e = InvertibleNetwork(6, 2), torch.randn(5, 6), torch.randn(5, 6)
    batch = {"x": x, "e": e, "expected": torch.randn(5, 6)}
    losses = pair_losses(network, batch, {**NONE, "generation": 1.0})
    error = (network.inverse(e) - batch["expected"]).square().mean()
    torch.testing.assert_close(losses["generation"], error)
    torch.testing.assert_close(losses["caption"], (network(x) - e).square().mean())


def test_a_wider_network_gets_zeros_beside_latents_and_captions_and_only_latents_count():
    network, x, e = setup()
    x, e = x[:, :4], e[:, :3]
    losses = pair_losses(network, {"x": x, "e": e}, {**NONE, "generation": 1.0})
    y = network(torch.nn.functional.pad(x, (0, 1)))
    drawn = network.inverse(torch.nn.functional.pad(e, (0, 2)))
    torch.testing.assert_close(losses["caption"], (y[:, :3] - e).square().mean())
    torch.testing.assert_close(losses["generation"], (drawn[:, :4] - x).square().mean())
    padding = torch.full((7, 1), 0.5, dtype=x.dtype)
    losses = pair_losses(network, {"x": x, "e": e, "padding": padding}, NONE)
    y = network(torch.cat([x, padding], 1))
    torch.testing.assert_close(losses["caption"], (y[:, :3] - e).square().mean())


def test_the_robust_inverse_is_the_error_from_disturbed_outputs():
    network, x, e = setup()
    v = 0.1 * torch.randn_like(x)
    losses = pair_losses(network, {"x": x, "e": e, "v": v}, {**NONE, "robust_inverse": 0.3})
    expected = (network.inverse(network(x) + v) - x).square().mean()
    torch.testing.assert_close(losses["robust_inverse"], expected)


def test_the_contrastive_term_is_the_cross_entropy_of_the_own_pair_in_both_directions():
    _, found, targets = setup()
    pairs = torch.tensor([[0, 0], [1, 1], [2, 1], [3, 3], [3, 4], [5, 5], [6, 6]])
    expected = 0.0
    for queries, answers in ((found, targets), (targets, found)):
        for i in range(7):
            rivals = [j for j in range(7) if j == i or not (pairs[i] == pairs[j]).any()]
            logits = [
                torch.cosine_similarity(queries[i], answers[j], 0) / TEMPERATURE for j in rivals
            ]
            expected += torch.stack(logits).logsumexp(0) - logits[rivals.index(i)]
    torch.testing.assert_close(contrastive_loss(found, targets, pairs), expected / 14)


def test_the_sliced_distance_compares_sorted_projections():
    one, other = torch.tensor([[0.0, 3.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    directions = torch.eye(2)
    expected = (((0 - 0) ** 2 + (1 - 2) ** 2) / 2 + ((1 - 0) ** 2 + (3 - 0) ** 2) / 2) / 2
    assert sliced_distance(one, other, directions).item() == expected
    assert sliced_distance(one, one.flip(0), directions).item() == 0


def test_directions_are_unit_vectors_with_half_of_each_in_either_space():
    directions = draw_directions((3, 9), 5, torch.Generator().manual_seed(0))
    for part in directions.split([3, 9]):
        torch.testing.assert_close(part.square().sum(0), torch.full((5,), 0.5))


def test_the_residual_term_falls_for_a_unit_normal_that_does_not_know_the_caption():
    generator = torch.Generator().manual_seed(0)
    e, z, other = (torch.randn(500, 4, generator=generator) for _ in range(3))
    directions = draw_directions((4, 4), 64, generator)

    def distance(residual: torch.Tensor) -> float:
        target = torch.cat([e, z], 1)
        return sliced_distance(torch.cat([e, residual], 1), target, directions).item()

    for wrong in (e, 0.5 * other, other + 0.5):
        assert distance(wrong) > 4 * distance(other)


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


def test_the_likelihood_of_a_residual_is_that_of_a_unit_normal():
    network, x, e = setup()
    log_sigma = torch.tensor(-0.4, dtype=torch.float64)
    sigma = torch.cat([log_sigma.exp().expand(3), torch.ones(2, dtype=torch.float64)])
    mean = torch.cat([e[:, :3], torch.zeros(7, 2, dtype=torch.float64)], 1)
    normal = torch.distributions.Normal(mean, sigma)
    log_density = normal.log_prob(network(x)).sum() + network.log_abs_det_jacobian(x).sum()
    expected = -log_density / 35 - math.log(2 * math.pi) / 2
    loss = likelihood_loss(network, x, e[:, :3], log_sigma)["likelihood"]
    torch.testing.assert_close(loss, expected)
