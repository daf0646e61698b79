"""Pairs (t, noise), drawn once, so that all prompts share the same noise samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invcap.diffusion.schedule import Schedule

UNIFORM_SHARE = 0.5


@dataclass(frozen=True)
class NoiseSamples:
    """M pairs of a step and noise, in the order of steps; or such for each of P images.

    Attributes:
        steps: (M,) or (P, M); int64, or float64 where samples lie anywhere in a schedule's steps.
        noise: (M, C, h, w) or (P, M, C, h, w) float32.
        importance: (M,) or (P, M) float64; the mean of importance * f(step, noise) over M is an
            unbiased estimate of the sum over all steps of the mean of f over noise.
    """

    steps: Tensor
    noise: Tensor
    importance: Tensor

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def cells(self) -> Tensor:
        """The step that each is in, int64."""
        return self.steps.long()

    def __getitem__(self, chosen: slice | Tensor) -> NoiseSamples:
        """Some of the pairs, or of the images."""
        return self.map(lambda tensor: tensor[chosen])

    def map(self, function: Callable[[Tensor], Tensor]) -> NoiseSamples:
        """Applies a function to every tensor."""
        return NoiseSamples(function(self.steps), function(self.noise), function(self.importance))

    def to(self, device: torch.device | str) -> NoiseSamples:
        """The same on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def expand(self, images: int) -> NoiseSamples:
        """The same M pairs for each of some images, without a copy."""
        return self.map(lambda tensor: tensor.expand(images, *tensor.shape))


def stack(samples: Sequence[NoiseSamples]) -> NoiseSamples:
    """The pairs of P images as one."""
    return NoiseSamples(
        torch.stack([one.steps for one in samples]),
        torch.stack([one.noise for one in samples]),
        torch.stack([one.importance for one in samples]),
    )


def draw_samples(
    schedule: Schedule,
    count: int,
    shape: tuple[int, ...],
    generator: torch.Generator,
    timestep_range: tuple[int, int] | None = None,
    density: Tensor | None = None,
) -> NoiseSamples:
    """Draws pairs on the CPU, one step from each of `count` equal shares of a distribution.

    Args:
        count: pairs.
        shape: of a latent, (C, h, w).
        timestep_range: first step and the one after the last; by default all. The pairs then
            stand for the sum over those.
        density: (T,), to which sampling of steps is proportional. By default half is uniform, which
            finds what prompts differ in, and half the bound's own, about 1 / t, which finds most
            of the bound itself.
    """
    first, end = timestep_range or (0, len(schedule))
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    check_timestep_range(schedule, (first, end))
    if density is None:
        weights = schedule.density()[first:end]
        density = UNIFORM_SHARE / len(weights) + (1 - UNIFORM_SHARE) * weights / weights.sum()
    else:
        density = density[first:end] / density[first:end].sum()
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    u, upto = u.double(), density.cumsum(0)
    steps = torch.searchsorted(upto, u).clamp(max=len(density) - 1)
    noise = torch.randn(count, *shape, generator=generator)
    fraction = 1 - (upto[steps] - u) / density[steps]
    return NoiseSamples(schedule.place(first + steps, fraction), noise, 1 / density[steps])


def check_timestep_range(schedule: Schedule, timestep_range: tuple[int, int]) -> None:
    """Raises ValueError unless a range of steps, (first, end), is one of a schedule."""
    first, end = timestep_range
    if not 0 <= first < end <= len(schedule):
        raise ValueError(
            f"timestep_range must lie within 0 and {len(schedule)}, got {first} to {end}"
        )


def standard_error(terms: Tensor) -> Tensor:
    """Standard error of the mean of terms (..., M), one for each noise sample, in their order.

    Neighbouring terms come from neighbouring shares, so their differences measure the noise within
    shares; the spread between shares does not count, since stratification removes it.

    Source: Wolter, "Introduction to variance estimation" (2007), section 8.2, estimator v2.
    """
    count = terms.shape[-1]
    if count < 2:
        raise ValueError(f"a standard error needs at least 2 terms, got {count}")
    return (terms.diff(dim=-1).square().sum(-1) / (2 * count * (count - 1))).sqrt()
