import pytest
import torch

from invcap.diffusion.noise_samples import draw_samples, standard_error
from invcap.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule(torch.linspace(0.9999, 0.98, 200, dtype=torch.float64).cumprod(0))


def terms(seed: int, within: tuple[int, int] | None = None, count: int = 64) -> torch.Tensor:
    """Of a bound whose errors vary with the step and with the noise."""
    bank = draw_samples(SCHEDULE, count, (4, 2, 2), torch.Generator().manual_seed(seed), within)
    errors = bank.noise.flatten(1).square().mean(1) / (1 + bank.steps)
    return bank.importance * errors


@pytest.mark.parametrize("within", [None, (50, 150), (199, 200)])
def test_a_banks_mean_estimates_the_sum_over_steps(within):
    first, end = within or (0, 200)
    expected = (1 / (1 + torch.arange(first, end))).sum().item()
    means = torch.stack([terms(seed, within).mean() for seed in range(200)])
    assert means.mean().item() == pytest.approx(expected, abs=4 * means.std().item() / 200**0.5)


def test_the_standard_error_is_the_spread_over_banks():
    means = torch.stack([terms(seed).mean() for seed in range(400)])
    errors = torch.stack([standard_error(terms(seed)) for seed in range(400)])
    assert errors.mean().item() == pytest.approx(means.std().item(), rel=0.15)


def test_steps_are_stratified_and_in_order():
    bank = draw_samples(SCHEDULE, 100, (1, 1, 1), torch.Generator())
    assert (bank.steps.diff() >= 0).all()
    assert bank.steps[0] < 3 and bank.steps[-1] > 190


@pytest.mark.parametrize("within", [None, (50, 150)])
def test_steps_are_drawn_in_proportion_to_a_density(within):
    first, end = within or (0, 200)
    density = torch.arange(200, dtype=torch.float64).square()
    bank = draw_samples(
        SCHEDULE, 1000, (1, 1, 1), torch.Generator().manual_seed(0), within, density
    )
    part = density[first:end] / density[first:end].sum()
    found = bank.steps.bincount(minlength=200)[first:end].cumsum(0) / 1000
    torch.testing.assert_close(found.double(), part.cumsum(0), rtol=0, atol=2e-3)
    torch.testing.assert_close(bank.importance, 1 / part[bank.steps - first])


def test_one_seed_gives_one_bank():
    one, same, other = (
        draw_samples(SCHEDULE, 8, (4, 8, 8), torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(one.noise, same.noise) and torch.equal(one.steps, same.steps)
    assert not torch.equal(one.noise, other.noise)


@pytest.mark.parametrize(
    ("count", "within", "message"),
    [
        (0, None, "at least 1 pair, got 0"),
        (4, (10, 10), "steps must be within 0 and 200, got 10 to 10"),
        (4, (0, 201), "steps must be within 0 and 200, got 0 to 201"),
    ],
)
def test_a_bank_that_cannot_be_drawn_is_refused(count, within, message):
    with pytest.raises(ValueError, match=message):
        draw_samples(SCHEDULE, count, (1, 1, 1), torch.Generator(), within)


def test_one_term_has_no_standard_error():
    with pytest.raises(ValueError, match="at least 2 terms, got 1"):
        standard_error(torch.ones(1))
