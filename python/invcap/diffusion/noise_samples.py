"""Banks: pairs (t, noise) drawn once, so that what is compared is compared on the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invcap.diffusion.schedule import NoiseSchedule

UNIFORM_SHARE = 0.5


@dataclass(frozen=True)
class NoiseSamples:
    """M pairs of a step and noise, in the order of steps.

    Attributes:
        steps: (M,) int64.
        noise: (M, C, h, w) float32.
        importance: (M,) float64; the mean of importance * f(step, noise) over the bank is an
            unbiased estimate of the sum over all steps of the mean of f over noise.
    """

    steps: Tensor
    noise: Tensor
    importance: Tensor

    def __len__(self) -> int:
        return len(self.steps)


def draw_samples(
    schedule: NoiseSchedule,
    count: int,
    shape: tuple[int, ...],
    generator: torch.Generator,
    within: tuple[int, int] | None = None,
    density: Tensor | None = None,
) -> NoiseSamples:
    """Draws a bank, one step from each of `count` equal shares of a distribution over steps.

    Args:
        count: pairs.
        shape: of a latent, (C, h, w).
        within: first step and the one after the last; by default all. The bank then stands for
            the sum over those.
        density: (T,), what steps are drawn in proportion to. By default half is uniform, which
            finds what prompts differ in, and half the bound's weights, about 1 / t, which finds
            most of the bound itself.
    """
    first, end = within or (0, len(schedule))
    if count < 1:
        raise ValueError(f"a bank needs at least 1 pair, got {count}")
    if not 0 <= first < end <= len(schedule):
        raise ValueError(f"steps must be within 0 and {len(schedule)}, got {first} to {end}")
    if density is None:
        weights = schedule.weights("elbo")[first:end]
        density = UNIFORM_SHARE / len(weights) + (1 - UNIFORM_SHARE) * weights / weights.sum()
    else:
        density = density[first:end] / density[first:end].sum()
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    steps = torch.searchsorted(density.cumsum(0), u.double()).clamp(max=len(density) - 1)
    noise = torch.randn(count, *shape, generator=generator)
    return NoiseSamples(first + steps, noise, 1 / density[steps])


def standard_error(terms: Tensor) -> Tensor:
    """Standard error of the mean of terms (..., M) that a bank gave, in its order.

    Neighbouring terms come from neighbouring shares, so that their differences say how much noise
    there is within shares; the spread over steps, which the bank has removed, does not count.

    Source: Wolter, "Introduction to variance estimation" (2007), section 8.2, estimator v2.
    """
    count = terms.shape[-1]
    if count < 2:
        raise ValueError(f"a standard error needs at least 2 terms, got {count}")
    return (terms.diff(dim=-1).square().sum(-1) / (2 * count * (count - 1))).sqrt()
