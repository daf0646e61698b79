import pytest
import torch

from invcap.training.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(24, 24), (10, 40), (40, 10), (16, 3, 3, 3)])
def test_a_step_direction_has_singular_values_near_one(shape):
    torch.manual_seed(0)
    rows, columns = shape[0], torch.zeros(shape)[0].numel()
    direction = orthogonalized(torch.randn(shape)).flatten(1)
    values = torch.linalg.svdvals(direction) / max(1, rows / columns) ** 0.5
    assert direction.shape == (rows, columns)
    assert values.min() > 0.3 and values.max() < 1.3


def test_the_direction_is_the_polar_factor_up_to_the_spread_of_its_singular_values():
    torch.manual_seed(0)
    matrix = torch.randn(16, 16)
    u, _, v = torch.linalg.svd(matrix)
    direction = orthogonalized(matrix)
    assert torch.linalg.norm(u.mT @ direction @ v.mT - torch.eye(16), 2) < 0.7


def test_steps_minimise_a_badly_scaled_quadratic():
    torch.manual_seed(0)
    target, scales = torch.randn(8, 8), torch.logspace(-1, 0, 8)[:, None]
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight])
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimizer.zero_grad()
        (scales * (weight - target)).square().sum().backward()
        optimizer.step()
    left = (scales * (weight - target)).square().sum() / (scales * target).square().sum()
    assert left < 0.01


def test_weight_decay_shrinks_a_weight_whose_gradient_is_zero():
    weight = torch.nn.Parameter(torch.eye(4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), 0.95 * torch.eye(4))
