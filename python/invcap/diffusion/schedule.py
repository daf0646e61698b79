"""The forward process of a diffusion model, and the weight of its network's error at each step.

Steps t = 1 .. T are numbered from 0 here, as in diffusers. Notation, as everywhere here:

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e      alpha_t = abar_t / abar_{t-1} = 1 - beta_t
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from math import pi
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Weighting = Literal["balanced", "elbo", "mean", "epsilon"]
WEIGHTINGS = get_args(Weighting)
PREDICTIONS = ("epsilon", "v_prediction")


class Schedule(ABC):
    """A path from an image to noise, in steps, and the weight of the network's error at each."""

    @classmethod
    @abstractmethod
    def of(cls, scheduler: Any) -> Schedule:
        """Takes the schedule of a diffusers scheduler, to the CPU.

        Raises:
            ValueError: it has none of this kind, or one that has no bound.
        """

    @abstractmethod
    def to(self, device: torch.device) -> Schedule:
        """The same on another device; copied once."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of steps."""

    @property
    @abstractmethod
    def identity(self) -> tuple[str, Tensor]:
        """Tensors and settings in which schedules differ."""

    @abstractmethod
    def weights(self, weighting: Weighting = "elbo") -> Tensor:
        """The weight of ||e_theta - e||^2 at each step, (T,) float64."""

    @abstractmethod
    def density(self, weighting: Weighting = "elbo") -> Tensor:
        """Sampling density of steps that gives weighted errors little variance, (T,)."""

    @abstractmethod
    def place(self, steps: Tensor, fraction: Tensor) -> Tensor:
        """Where within steps (N,), numbered from 0, samples are taken.

        Args:
            fraction: (N,) float64 from 0 to 1, uniformly drawn: how far from one end of the step.
        """

    @abstractmethod
    def constant(self, latents: Tensor) -> Tensor:
        """Terms of the bound that do not depend on the prompt, for each image.

        Args:
            latents: x_0, (P, ...).

        Returns:
            (P,) float64, nats per latent number.
        """

    @abstractmethod
    def scales(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of x_0 and of the noise at steps (N,): (N,) float64 each."""

    @abstractmethod
    def noise_of(self, predicted: Tensor, noisy: Tensor, steps: Tensor) -> Tensor:
        """The noise that corresponds to the network's output."""

    def drawn_weights(self, weighting: Weighting = "elbo") -> Tensor:
        """Weights of errors divided by `density`, for steps drawn by it, (T,) float32."""
        return (self.weights(weighting) / self.density(weighting)).float()

    def noisy(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """x_t for x_0 and e of one shape, (N, ...), at steps (N,)."""
        signal, spread = self._scales_like(noise, steps)
        return signal * latents + spread * noise

    def _scales_like(self, like: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (like.ndim - 1))
        signal, spread = self.scales(steps)
        return signal.view(shape).to(like), spread.view(shape).to(like)


def check_weighting(weighting: str) -> None:
    """Raises ValueError unless there is such a weighting."""
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")


def prior_divergence(latents: Tensor, abar: Tensor) -> Tensor:
    """Divergence of q(x_T | x_0) from the standard normal prior, nats per latent number, (P,).

    Args:
        latents: x_0, (P, ...).
        abar: abar_T, float64.
    """
    square = latents.double().square().flatten(1).mean(1)
    return 0.5 * (abar * square - abar - (1 - abar).log())


@dataclass(frozen=True, eq=False)
class NoiseSchedule(Schedule):
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
            ValueError: the scheduler has no abar, or its prediction type or abar cannot be used.
        """
        abar = getattr(scheduler, "alphas_cumprod", None)
        if abar is None:
            raise ValueError(
                f"scheduler must have alphas_cumprod, got {type(scheduler).__name__} without"
            )
        prediction_type = scheduler.config.prediction_type
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
        if device == self.alphas_cumprod.device:
            return self
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction_type)

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def identity(self) -> tuple[str, Tensor]:
        return self.prediction_type, self.alphas_cumprod

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
        check_weighting(weighting)
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

    def density(self, weighting: Weighting = "elbo") -> Tensor:
        return self.weights(weighting)

    def place(self, steps: Tensor, fraction: Tensor) -> Tensor:
        return steps

    def constant(self, latents: Tensor) -> Tensor:
        """Minus the divergence from the prior, and the normalisation of the reconstruction.

        The reconstruction is a normal of variance beta_1. See `Schedule.constant`.
        """
        reconstruction = 0.5 * (2 * pi * (1 - self.alphas[0])).log()
        return -prior_divergence(latents, self.alphas_cumprod[-1]) - reconstruction

    def scales(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod[steps]
        return abar.sqrt(), (1 - abar).sqrt()

    def noise_of(self, predicted: Tensor, noisy: Tensor, steps: Tensor) -> Tensor:
        """The noise that the network's output means: itself, or sqrt(abar) v + sqrt(1-abar) x_t."""
        if self.prediction_type == "epsilon":
            return predicted
        signal, spread = self._scales_like(noisy, steps)
        return signal * predicted + spread * noisy
