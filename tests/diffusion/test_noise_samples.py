import pytest
import torch

from invcap.diffusion.noise_samples import draw_samples, standard_error
from invcap.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule(torch.linspace(0.9999, 0.98, 200, dtype=torch.float64).cumprod(0))


def terms(
    seed: int, timestep_range: tuple[int, int] | None = None, count: int = 64
) -> torch.Tensor:
    """Of a bound whose errors vary with the step and with the noise."""
    generator = torch.Generator().manual_seed(seed)
    samples = draw_samples(SCHEDULE, count, (4, 2, 2), generator, timestep_range)
    errors = samples.noise.flatten(1).square().mean(1) / (1 + samples.steps)
    return samples.importance * errors


@pytest.mark.parametrize("timestep_range", [None, (50, 150), (199, 200)])
def test_the_mean_estimates_the_sum_over_steps(timestep_range):
    first, end = timestep_range or (0, 200)
    expected = (1 / (1 + torch.arange(first, end))).sum().item()
    means = torch.stack([terms(seed, timestep_range).mean() for seed in range(200)])
    assert means.mean().item() == pytest.approx(expected, abs=4 * means.std().item() / 200**0.5)


def test_the_standard_error_is_the_spread_over_samples():
    means = torch.stack([terms(seed).mean() for seed in range(400)])
    errors = torch.stack([standard_error(terms(seed)) for seed in range(400)])
    assert errors.mean().item() == pytest.approx(means.std().item(), rel=0.15)


def test_steps_are_stratified_and_in_order():
    samples = draw_samples(SCHEDULE, 100, (1, 1, 1), torch.Generator())
    assert (samples.steps.diff() >= 0).all()
    assert samples.steps[0] < 3 and samples.steps[-1] > 190


@pytest.mark.parametrize("timestep_range", [None, (50, 150)])
def test_steps_are_drawn_in_proportion_to_a_density(timestep_range):
    first, end = timestep_range or (0, 200)
    density = torch.arange(200, dtype=torch.float64).square()
    samples = draw_samples(
        SCHEDULE, 1000, (1, 1, 1), torch.Generator().manual_seed(0), timestep_range, density
    )
    part = density[first:end] / density[first:end].sum()
    found = samples.steps.bincount(minlength=200)[first:end].cumsum(0) / 1000
    torch.testing.assert_close(found.double(), part.cumsum(0), rtol=0, atol=2e-3)
    torch.testing.assert_close(samples.importance, 1 / part[samples.steps - first])


def test_one_seed_gives_one_set_of_samples():
    one, same, other = (
        draw_samples(SCHEDULE, 8, (4, 8, 8), torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(one.noise, same.noise) and torch.equal(one.steps, same.steps)
    assert not torch.equal(one.noise, other.noise)


@pytest.mark.parametrize(
    ("count", "timestep_range", "message"),
    [
        (0, None, "count must be at least 1, got 0"),
        (4, (10, 10), "timestep_range must lie within 0 and 200, got 10 to 10"),
        (4, (0, 201), "timestep_range must lie within 0 and 200, got 0 to 201"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused(count, timestep_range, message):
    with pytest.raises(ValueError, match=message):
        draw_samples(SCHEDULE, count, (1, 1, 1), torch.Generator(), timestep_range)


def test_one_term_has_no_standard_error():
    with pytest.raises(ValueError, match="at least 2 terms, got 1"):
        standard_error(torch.ones(1))
