from math import e, log, pi

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from invcap.diffusion.flow_schedule import FlowSchedule
from invcap.diffusion.noise_samples import draw_samples, standard_error
from invcap.diffusion.schedule import WEIGHTINGS, NoiseSchedule

COARSE = FlowSchedule(torch.linspace(0.05, 0.95, 7, dtype=torch.float64))


def fine(count: int) -> FlowSchedule:
    """So many levels from 0.01 to 0.99, evenly spaced in l."""
    end = 2 * log(99)
    log_snr = torch.linspace(end, -end, count, dtype=torch.float64)
    return FlowSchedule((-log_snr / 2).sigmoid())


def as_diffusion(schedule: FlowSchedule) -> NoiseSchedule:
    """The diffusion model with a step at each level of a flow's path."""
    return NoiseSchedule(schedule.log_snr.sigmoid())


def middles(schedule: FlowSchedule) -> torch.Tensor:
    return (schedule.log_snr[:-1] + schedule.log_snr[1:]) / 2


def test_the_noise_is_computed_from_the_velocity():
    x0, noise = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator())
    steps = torch.arange(6) + torch.rand(6, dtype=torch.float64)
    noisy = COARSE.noisy(x0, noise, steps)
    s = COARSE.sigma(steps)[:, None]
    torch.testing.assert_close(noisy, (1 - s) * x0 + s * noise)
    torch.testing.assert_close(COARSE.noise_of(noise - x0, noisy, steps), noise)


def test_steps_lie_between_their_levels_evenly_in_log_snr():
    torch.testing.assert_close(COARSE.sigma(torch.arange(6)), COARSE.sigmas[:-1])
    half = COARSE.sigma(torch.arange(6) + 0.5)
    torch.testing.assert_close(2 * ((1 - half) / half).log(), middles(COARSE))


def test_the_bound_of_normal_data_under_their_own_denoiser_is_minus_their_entropy():
    # E Var(noise | x) = abar; what is missing is the reconstruction's spread, log(1 + 1 / SNR) / 2.
    schedule = fine(4001)
    normal = torch.tensor([[1.0, -1.0, 1.0, -1.0]])  # mean square 1
    bound = schedule.constant(normal) - (schedule.weights() * middles(schedule).sigmoid()).sum()
    expected = -0.5 * log(2 * pi * e) - 0.5 * (1 + (-schedule.log_snr[0]).exp()).log()
    assert bound.item() == pytest.approx(expected.item(), abs=1e-6)


def error_at(log_snr: torch.Tensor) -> torch.Tensor:
    """The squared error of some network, which is best in the middle."""
    return 0.1 + 0.8 * log_snr.sigmoid() ** 2 + 0.3 * (-log_snr).sigmoid() ** 2


def test_diffusion_models_of_more_and_more_steps_approach_the_bound():
    x0 = torch.linspace(-1, 2, 8)[None]
    gaps = []
    for count in (101, 1001, 10001):
        schedule = fine(count)
        flow = schedule.constant(x0) - (schedule.weights() * error_at(middles(schedule))).sum()
        discrete = as_diffusion(schedule)
        errors = error_at(schedule.log_snr)
        errors[0] = 1  # what a flow's reconstruction expects, here with variance beta_1 / alpha_1
        bound = discrete.constant(x0) - (discrete.weights() * errors).sum()
        alpha = discrete.alphas[0]
        bound += 0.5 * (alpha.log() + 1 / alpha - 1)
        gaps.append((flow - bound).item())
    assert gaps[0] > 0.05  # fewer steps, looser bound
    assert gaps[2] == pytest.approx(0, abs=5e-3)
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.1)


def test_weightings_agree_with_those_of_diffusion_models():
    schedule = fine(20001)
    discrete, abar = as_diffusion(schedule), middles(schedule).sigmoid()
    for weighting in ("mean", "elbo", "epsilon"):
        found, expected = schedule.weights(weighting), discrete.weights(weighting)[1:]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)
    balanced, elbo = schedule.weights("balanced"), schedule.weights("elbo")
    for part, other in ((elbo, 1 / abar), (1 / abar, elbo)):
        share = torch.linalg.lstsq(torch.stack([part, other], 1), balanced[:, None]).solution[0]
        drawn = share * part * (1 - schedule.sigma(torch.arange(20000) + 0.5)) ** 2
        assert drawn.sum().item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_density_times_the_drawn_weight_is_the_weight(weighting):
    left = COARSE.drawn_weights(weighting).double()
    found = COARSE.density(weighting) * left
    torch.testing.assert_close(found, COARSE.weights(weighting), rtol=1e-6, atol=0)


def test_the_prior_and_the_reconstruction_complete_the_bound():
    x0 = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    s, end = COARSE.sigmas[0], COARSE.sigmas[-1]
    size = ((1 - end) ** 2 + end**2).sqrt()
    normal = torch.distributions.Normal
    last = normal((1 - end) * x0, end)
    prior = torch.distributions.kl_divergence(last, normal(torch.zeros(()).double(), size))
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(1)).double()
    reconstruction = normal(0.0, s / (1 - s)).log_prob(s / (1 - s) * noise).mean()
    found = COARSE.constant(x0)
    expected = reconstruction - prior.flatten(1).mean(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


def test_samples_estimate_the_integral_and_not_a_sum_over_levels():
    grid = fine(20001)
    inside = (grid.sigmas > COARSE.sigmas[0]) & (grid.sigmas < COARSE.sigmas[-1])
    log_snr = grid.log_snr[inside]
    expected = torch.trapezoid(error_at(log_snr), -log_snr).item() / 2
    means, errors = [], []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        samples = draw_samples(COARSE, 32, (1, 1, 1), generator)
        s = COARSE.sigma(samples.steps)
        terms = COARSE.weights()[samples.cells] * samples.importance
        terms = terms * error_at(2 * ((1 - s) / s).log())
        means.append(terms.mean())
        errors.append(standard_error(terms))
    found, spread = torch.stack(means).mean().item(), torch.stack(means).std().item()
    assert found == pytest.approx(expected, abs=4 * spread / 200**0.5)
    at_levels = (COARSE.weights() * error_at(COARSE.log_snr[1:])).sum().item()
    assert abs(at_levels - expected) > 20 * spread / 200**0.5
    # Neighbouring terms differ by their steps too, so these errors are on the safe side.
    assert torch.stack(errors).mean().item() > 0.9 * spread


def test_a_schedulers_levels_are_those_it_was_made_with():
    scheduler = FlowMatchEulerDiscreteScheduler(100, shift=3.0)
    s = torch.arange(1, 100, dtype=torch.float64) / 100
    expected = 3 * s / (1 + 2 * s)
    torch.testing.assert_close(FlowSchedule.of(scheduler).sigmas, expected, rtol=1e-6, atol=0)
    scheduler.set_timesteps(5)
    torch.testing.assert_close(FlowSchedule.of(scheduler).sigmas, expected, rtol=1e-6, atol=0)
    dynamic = FlowMatchEulerDiscreteScheduler(100, shift=3.0, use_dynamic_shifting=True)
    torch.testing.assert_close(FlowSchedule.of(dynamic).sigmas, s, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDIMScheduler(), "scheduler must be a flow-matching one, got DDIMScheduler"),
        (FlowMatchEulerDiscreteScheduler(2), r"at least 2 levels in \(0, 1\), got 1"),
    ],
)
def test_a_scheduler_that_has_no_path_is_refused(scheduler, message):
    with pytest.raises(ValueError, match=message):
        FlowSchedule.of(scheduler)


def test_a_flow_scheduler_is_no_diffusion_schedule():
    with pytest.raises(ValueError, match="must have alphas_cumprod, got FlowMatchEuler"):
        NoiseSchedule.of(FlowMatchEulerDiscreteScheduler())


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match=r"weighting must be one of .* got 'snr'"):
        COARSE.weights("snr")
