import pytest
import torch
from diffusers import DDIMScheduler
from torch.distributions import Normal, kl_divergence

from invcap.diffusion.schedule import NoiseSchedule

STEPS = 40
SCHEDULE = NoiseSchedule(torch.linspace(0.98, 0.9, STEPS, dtype=torch.float64).cumprod(0))


def draws(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_0, e and what a network might take for e."""
    generator = torch.Generator().manual_seed(seed)
    x0, e = torch.randn(2, 5, dtype=torch.float64, generator=generator)
    return x0, e, e + 0.3 * torch.randn(5, dtype=torch.float64, generator=generator)


def paper_step(t: int, x0: torch.Tensor, e: torch.Tensor, found: torch.Tensor):
    """q(x_{t-1} | x_t, x_0) and the model's step, by Bayes' theorem, t from 2 as in the paper."""
    abar = [1.0, *SCHEDULE.alphas_cumprod.tolist()]
    alpha = abar[t] / abar[t - 1]
    xt = abar[t] ** 0.5 * x0 + (1 - abar[t]) ** 0.5 * e

    def posterior(clean: torch.Tensor) -> Normal:
        # N(x_t; sqrt(alpha) x_{t-1}, 1 - alpha) times N(x_{t-1}; sqrt(abar) x_0, 1 - abar)
        precision = alpha / (1 - alpha) + 1 / (1 - abar[t - 1])
        weighted = alpha**0.5 * xt / (1 - alpha) + abar[t - 1] ** 0.5 * clean / (1 - abar[t - 1])
        return Normal(weighted / precision, torch.full_like(x0, precision**-0.5))

    guessed = (xt - (1 - abar[t]) ** 0.5 * found) / abar[t] ** 0.5
    return posterior(x0), posterior(guessed)


@pytest.mark.parametrize("t", range(2, STEPS + 1))
def test_weights_turn_errors_into_the_papers_distances_and_divergences(t):
    x0, e, found = draws(t)
    true, model = paper_step(t, x0, e, found)
    error = (found - e).square().sum()
    distance = (true.mean - model.mean).square().sum()
    torch.testing.assert_close(SCHEDULE.weights("mean")[t - 1] * error, distance)
    torch.testing.assert_close(
        SCHEDULE.weights("elbo")[t - 1] * error, kl_divergence(true, model).sum()
    )
    assert SCHEDULE.weights("epsilon")[t - 1] == 1


def test_balanced_weights_are_half_the_bounds_and_half_velocitys():
    x0, e, found = draws()
    guess, velocity = torch.randn_like(found), []
    for noise in (e, guess):
        abar = SCHEDULE.alphas_cumprod[:, None]
        xt = abar.sqrt() * x0 + (1 - abar).sqrt() * e
        clean = (xt - (1 - abar).sqrt() * noise) / abar.sqrt()
        velocity.append(abar.sqrt() * noise - (1 - abar).sqrt() * clean)
    ratio = (velocity[0] - velocity[1]).square().sum(1) / (e - guess).square().sum()
    elbo = SCHEDULE.weights("elbo")
    expected = elbo / elbo.sum() + ratio / ratio.sum()
    torch.testing.assert_close(SCHEDULE.weights("balanced"), expected)


def test_the_constant_and_the_first_weight_complete_the_bound():
    x0, e, found = draws()
    abar = SCHEDULE.alphas_cumprod
    spread = (1 - abar[0]).sqrt()
    x1 = abar[0].sqrt() * x0 + spread * e
    reconstruction = Normal((x1 - spread * found) / abar[0].sqrt(), spread).log_prob(x0).sum()
    end = Normal(abar[-1].sqrt() * x0, (1 - abar[-1]).sqrt())
    prior = kl_divergence(end, Normal(torch.zeros(5).double(), 1.0)).sum()
    first = SCHEDULE.weights("elbo")[0] * (found - e).square().sum()
    expected = (reconstruction - prior + first) / 5
    torch.testing.assert_close(SCHEDULE.constant(x0[None])[0], expected)


def test_velocity_and_noise_predictions_give_the_same_errors():
    x0, e, _ = draws()
    x0, e = x0.expand(STEPS, 5), e.expand(STEPS, 5)
    steps = torch.arange(STEPS)
    velocity = NoiseSchedule(SCHEDULE.alphas_cumprod, "v_prediction")
    noisy = velocity.noisy(x0, e, steps)
    abar = SCHEDULE.alphas_cumprod[:, None]
    v = abar.sqrt() * e - (1 - abar).sqrt() * x0
    torch.testing.assert_close(velocity.noise_of(v, noisy, steps), e)
    torch.testing.assert_close(SCHEDULE.noise_of(e, noisy, steps), e)


@pytest.mark.parametrize(
    ("alphas_cumprod", "prediction", "message"),
    [
        (torch.tensor([0.9, 0.0]), "epsilon", "alphas_cumprod must lie strictly between 0 and 1"),
        (torch.tensor([0.9, 0.5]), "sample", "prediction_type must be one of .* got 'sample'"),
    ],
)
def test_a_schedule_that_has_no_bound_is_refused(alphas_cumprod, prediction, message):
    scheduler = DDIMScheduler(prediction_type=prediction)
    scheduler.alphas_cumprod = alphas_cumprod
    with pytest.raises(ValueError, match=message):
        NoiseSchedule.of(scheduler)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match=r"weighting must be one of .* got 'snr'"):
        SCHEDULE.weights("snr")
