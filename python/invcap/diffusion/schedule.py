"""The forward process of a diffusion model, and the weight of its network's error at each step.

Steps t = 1 .. T are numbered from 0 here, as in diffusers. Notation, as everywhere here:

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e      alpha_t = abar_t / abar_{t-1} = 1 - beta_t
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import pi
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Weighting = Literal["balanced", "elbo", "mean", "epsilon"]
WEIGHTINGS = get_args(Weighting)
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """abar_t for each step, and what the network predicts.

    Attributes:
        alphas_cumprod: (T,) float64, decreasing, inside (0, 1).
        prediction_type: "epsilon" or "v_prediction".
    """

    alphas_cumprod: Tensor
    prediction_type: str = "epsilon"

    @classmethod
    def of(cls, scheduler: Any) -> NoiseSchedule:
        """Takes the schedule of a diffusers scheduler, to the CPU.

        Raises:
            ValueError: the scheduler's prediction type or its abar cannot be used.
        """
        abar, prediction_type = scheduler.alphas_cumprod, scheduler.config.prediction_type
        if prediction_type not in PREDICTIONS:
            raise ValueError(
                f"prediction_type must be one of {PREDICTIONS}, got {prediction_type!r}"
            )
        if not ((abar > 0) & (abar < 1)).all():
            raise ValueError(
                "alphas_cumprod must lie strictly between 0 and 1, got "
                f"{abar.min():.3g} to {abar.max():.3g}"
            )
        return cls(abar.double().cpu(), prediction_type)

    @lru_cache  # noqa: B019  a schedule lives as long as its model, on one or two devices
    def to(self, device: torch.device) -> NoiseSchedule:
        """The same on another device; copied once."""
        if device == self.alphas_cumprod.device:
            return self
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction_type)

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def alphas(self) -> Tensor:
        """alpha_t, (T,)."""
        before = torch.cat([torch.ones_like(self.alphas_cumprod[:1]), self.alphas_cumprod[:-1]])
        return self.alphas_cumprod / before

    def weights(self, weighting: Weighting = "elbo") -> Tensor:
        """The weight of ||e_theta - e||^2 at each step, (T,) float64.

        `epsilon`: 1. `mean`: beta_t^2 / (alpha_t (1 - abar_t)), which makes it the squared
        distance of the two means, the paper's loss. `elbo`: that over 2 sigma_t^2, with
        sigma_t^2 = beta_t (1 - abar_{t-1}) / (1 - abar_t), which makes it the Kullback-Leibler
        divergence in nats; at the first step, 1 / (2 alpha_1), the reconstruction's. `balanced`:
        the sum of that and of 1 / abar_t, which makes it the squared error of velocity, each
        scaled to a sum of 1: the bound alone has few nats for the noisy steps, where it is
        decided what is drawn and where.

        Source: "Image captioning with text-to-image models", section 3; Ho et al., "Denoising
        diffusion probabilistic models" (2020), equations 6 to 12.
        """
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
        abar, alpha = self.alphas_cumprod, self.alphas
        if weighting == "epsilon":
            return torch.ones_like(abar)
        beta = 1 - alpha
        mean = beta**2 / (alpha * (1 - abar))
        if weighting == "mean":
            return mean
        variance = beta[1:] * (1 - abar[:-1]) / (1 - abar[1:])
        elbo = torch.cat([1 / (2 * alpha[:1]), mean[1:] / (2 * variance)])
        if weighting == "elbo":
            return elbo
        velocity = 1 / abar
        return elbo / elbo.sum() + velocity / velocity.sum()

    def constant(self, latents: Tensor) -> Tensor:
        """What the bound has beside its weighted errors, for each picture.

        Minus the divergence of q(x_T | x_0) from the standard normal prior, and the normalisation
        of the reconstruction, a normal of variance beta_1.

        Args:
            latents: x_0, (P, ...).

        Returns:
            (P,) float64, nats per latent number.
        """
        abar = self.alphas_cumprod[-1]
        square = latents.double().square().flatten(1).mean(1)
        prior = 0.5 * (abar * square - abar - (1 - abar).log())
        return -prior - 0.5 * (2 * pi * (1 - self.alphas[0])).log()

    def noisy(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """x_t for x_0 and e of one shape, (N, ...), at steps (N,)."""
        signal, spread = self._scales(noise, steps)
        return signal * latents + spread * noise

    def noise_of(self, predicted: Tensor, noisy: Tensor, steps: Tensor) -> Tensor:
        """The noise that the network's output means: itself, or sqrt(abar) v + sqrt(1-abar) x_t."""
        if self.prediction_type == "epsilon":
            return predicted
        signal, spread = self._scales(noisy, steps)
        return signal * predicted + spread * noisy

    def _scales(self, like: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod[steps].view(-1, *[1] * (like.ndim - 1))
        return abar.sqrt().to(like), (1 - abar).sqrt().to(like)
