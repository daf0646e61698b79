"""Flow matching: straight paths from an image to noise, as Stable Diffusion 3 and FLUX have them.

    x_s = (1 - s) x_0 + s e      v = e - x_0      e = x_s + (1 - s) v      l = 2 log((1 - s) / s)

l is the log of the signal's variance over the noise's. Divided by its size, x_s is a noisy latent
of a diffusion model with abar = sigmoid(l), so weightings mean here what they mean there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import log, pi
from typing import Any

import torch
from torch import Tensor

from invcap.diffusion.schedule import Schedule, Weighting, check_weighting, prior_divergence


@dataclass(frozen=True, eq=False)
class FlowSchedule(Schedule):
    """The path in T steps between T + 1 noise levels; the network predicts v.

    Samples of step k lie anywhere between the levels k and k + 1, uniformly in l: k + f says how
    far. So the bound is that of continuous time, whatever the number of steps.

    Attributes:
        sigmas: s, (T + 1,) float64, increasing, inside (0, 1).
    """

    sigmas: Tensor

    @classmethod
    def of(cls, scheduler: Any) -> FlowSchedule:
        """The levels that a flow-matching scheduler of diffusers was made with, without s = 1.

        Raises:
            ValueError: the scheduler is of another kind, or has fewer than two levels.
        """
        if not type(scheduler).__name__.startswith("FlowMatch"):
            raise ValueError(
                f"scheduler must be a flow-matching one, got {type(scheduler).__name__}"
            )
        settings = {key: to for key, to in scheduler.config.items() if not key.startswith("_")}
        made = type(scheduler)(**settings)  # drawing an image has replaced a scheduler's own levels
        sigmas = made.sigmas.double().cpu().unique()
        sigmas = sigmas[(sigmas > 0) & (sigmas < 1)]
        if len(sigmas) < 2:
            raise ValueError(f"scheduler must have at least 2 levels in (0, 1), got {len(sigmas)}")
        return cls(sigmas)

    @lru_cache  # noqa: B019  a schedule lives as long as its model, on one or two devices
    def to(self, device: torch.device) -> FlowSchedule:
        return self if device == self.sigmas.device else FlowSchedule(self.sigmas.to(device))

    def __len__(self) -> int:
        return len(self.sigmas) - 1

    @property
    def identity(self) -> tuple[str, Tensor]:
        return "flow", self.sigmas

    @property
    def log_snr(self) -> Tensor:
        """l at each level, (T + 1,), decreasing."""
        return 2 * ((1 - self.sigmas) / self.sigmas).log()

    def weights(self, weighting: Weighting = "elbo") -> Tensor:
        """The weight of ||e_theta - e||^2 in each step, (T,) float64.

        `elbo`: half the step's share of l, so that the sum is half the integral over l, which is
        the limit of many steps of diffusion models' divergences. `mean`: the squared distance of
        the two means of that step, as there. `epsilon`: 1. `balanced`: the sum of `elbo` and of
        1 / abar, which makes it the squared error of a diffusion model's velocity, each scaled to
        half of the samples.

        Source: Kingma and Gao, "Understanding diffusion objectives as the ELBO with simple data
        augmentation" (2023), section 3.
        """
        check_weighting(weighting)
        log_snr = self.log_snr
        elbo = (log_snr[:-1] - log_snr[1:]) / 2
        if weighting == "elbo":
            return elbo
        if weighting == "epsilon":
            return torch.ones_like(elbo)
        if weighting == "mean":
            abar = log_snr.sigmoid()
            alpha = abar[1:] / abar[:-1]
            return (1 - alpha) ** 2 / (alpha * (1 - abar[1:]))
        velocity = 1 / self._middle.sigmoid()
        expected = self._expected
        return elbo / (elbo * expected).sum() + velocity / (velocity * expected).sum()

    def density(self, weighting: Weighting = "elbo") -> Tensor:
        """Proportional to the weights of ||v_theta - v||^2: (1 - s)^2 of those of the noise's."""
        return self.weights(weighting) * self._expected

    def place(self, steps: Tensor, fraction: Tensor) -> Tensor:
        return steps + fraction.clamp(0, 1 - 1e-9)

    def constant(self, latents: Tensor) -> Tensor:
        """Minus the divergence from the prior, and the expected reconstruction from the first s.

        The integral over l has no end at s = 0, so it is cut at the smallest s. There, x_0 is
        taken to be normal about x_s / (1 - s) with standard deviation s / (1 - s): for every
        prompt the same. See `Schedule.constant`.
        """
        log_snr = self.log_snr
        reconstruction = 0.5 * (log(2 * pi) - log_snr[0] + 1)
        return -prior_divergence(latents, log_snr[-1].sigmoid()) - reconstruction

    def scales(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma(steps)
        return 1 - sigma, sigma

    def sigma(self, steps: Tensor) -> Tensor:
        """s at steps (N,): (N,) float64."""
        whole, log_snr = steps.long(), self.log_snr
        between = torch.lerp(log_snr[whole], log_snr[whole + 1], (steps - whole).double())
        return (-between / 2).sigmoid()

    def noise_of(self, predicted: Tensor, noisy: Tensor, steps: Tensor) -> Tensor:
        """The noise that a predicted v means: x_s + (1 - s) v."""
        signal, _ = self._scales_like(noisy, steps)
        return noisy + signal * predicted

    @property
    def _middle(self) -> Tensor:
        """l in the middle of each step."""
        log_snr = self.log_snr
        return (log_snr[:-1] + log_snr[1:]) / 2

    @property
    def _expected(self) -> Tensor:
        """Squared error of the noise in each step where that of v is 1: (1 - s)^2."""
        return (self._middle / 2).sigmoid().square()
