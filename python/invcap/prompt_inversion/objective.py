"""The bound of log p(image | prompt), its terms over noise samples, and its stochastic gradient.

    bound = constant(x_0) - sum over t of weight_t E ||e_theta(x_t, t, y) - e||^2

Source: "Image captioning with text-to-image models", section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.noise_samples import NoiseSamples, draw_samples, stack
from invcap.prompt_inversion.parametrization import ConditioningOf
from invcap.prompt_inversion.settings import InversionSettings
from invcap_ext import weighted_squared_error


def squared_errors(
    model: FrozenTextToImage,
    noisy: Tensor,
    noise: Tensor,
    steps: Tensor,
    conditioning: Conditioning,
    weight: Tensor,
) -> Tensor:
    """weight ||e_theta(x_t, t, y) - e||^2 for N noisy latents, one evaluation each.

    Args:
        noisy, noise: (N, C, h, w) float32.
        steps: (N,).
        conditioning: that of N prompts y; the result is differentiable in it.
        weight: (N,) float32.

    Returns:
        (N,) float32.
    """
    return weighted_squared_error(model.predict_noise(noisy, steps, conditioning), noise, weight)


@torch.no_grad()
def bound_terms(
    model: FrozenTextToImage, latents: Tensor, conditioning: Conditioning, samples: NoiseSamples
) -> Tensor:
    """Terms (N, M) float64 whose mean over M is the bound, in nats per latent number.

    Args:
        model: the model.
        latents: (N, C, h, w).
        conditioning: that of N prompts.
        samples: N x M noise samples.
    """
    schedule = model.schedule.to(latents.device)
    count, draws = samples.steps.shape
    weight = schedule.weights()[samples.cells] * samples.importance / latents[0].numel()
    errors = []
    every = torch.arange(count * draws, device=latents.device)
    for evaluations in every.split(model.batch_size(*latents.shape[2:])):
        prompt, draw = evaluations // draws, evaluations % draws
        steps, noise = samples.steps[prompt, draw], samples.noise[prompt, draw]
        noisy = schedule.noisy(latents[prompt], noise, steps)
        part = weight[prompt, draw].float()
        errors.append(squared_errors(model, noisy, noise, steps, conditioning[prompt], part))
    return schedule.constant(latents)[:, None] - torch.cat(errors).double().view(count, draws)


class Maximized(Protocol):
    """What `maximize` maximizes; see `Objective`."""

    images: int

    def gradient(self, vectors: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Gradients of the errors in the vectors, (A, N, d), and bounds (A,)."""
        ...

    def held_out_terms(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Terms (A, M) of the held-out bounds."""
        ...


class Objective:
    """The bounds of P images as functions of what is optimized, each on its own noise samples.

    An image's samples depend only on its seed, not on the other images of the batch.

    Args:
        model: the model.
        latents: (P, C, h, w).
        conditioning_of: see `parametrize`.
        seeds: one for each image.
        settings: the number of samples, and how they are weighted.

    Attributes:
        images: number of images whose samples the gradient of one row uses.
    """

    images = 1

    def __init__(
        self,
        model: FrozenTextToImage,
        latents: Tensor,
        conditioning_of: ConditioningOf,
        seeds: Sequence[int],
        settings: InversionSettings,
    ) -> None:
        self.model = model
        self.latents = latents
        self.conditioning_of = conditioning_of
        self.draws, self.rounds = settings.draws, settings.bank // settings.draws
        schedule, shape = model.schedule, tuple(latents.shape[1:])
        density = schedule.density(settings.weighting)
        held_out, training, order = [], [], []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            held_out.append(draw_samples(schedule, settings.held_out, shape, generator))
            samples = draw_samples(
                schedule, settings.bank, shape, generator, settings.timestep_range, density
            )
            # The samples of one step are `rounds` apart. Each second one has the noise of the one
            # before with its sign changed (antithetic samples), which lowers the variance.
            noise = samples.noise.view(self.draws, self.rounds, *shape)
            noise[1::2] = -noise[: self.draws - 1 : 2]
            training.append(samples)
            epochs = range(1 + settings.steps // self.rounds)
            order.append(
                torch.cat([torch.randperm(self.rounds, generator=generator) for _ in epochs])
            )
        self.held_out = stack(held_out).to(latents.device)
        self.training = stack(training).to(latents.device)
        self.order = torch.stack(order).to(latents.device)
        schedule = schedule.to(latents.device)
        self.bound_weights = schedule.weights() / latents[0].numel()
        self.gradient_weights = schedule.drawn_weights(settings.weighting)
        self.constant = schedule.constant(latents)

    def gradient(self, vectors: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Gradients of the weighted errors in some images' vectors, and their bounds.

        Importance sampling: diffusion steps were drawn from a density, so errors are multiplied by
        weight / density. The samples of a gradient step are spread evenly over those of the bank.

        Args:
            vectors: (A, N, d), of the images `rows`, (A,).
            rows: which images.
            step: the gradient step, which determines its samples.

        Returns:
            The gradients, (A, N, d), and these samples' estimates of the bounds, (A,) float64.
        """
        noisy, samples, owner = self.draw(rows, step)
        weight = self.gradient_weights[samples.cells].to(noisy.dtype)
        vectors = vectors.detach().requires_grad_()
        conditioning = self.conditioning_of(vectors, rows)
        leaves = conditioning.map(
            lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad)
        )
        errors = []
        size = self.model.batch_size(*noisy.shape[2:])
        for first in range(0, len(owner), size):
            part = slice(first, first + size)
            found = squared_errors(
                self.model,
                noisy[part],
                samples.noise[part],
                samples.steps[part],
                leaves[owner[part]],
                weight[part],
            )
            found.sum().backward()
            errors.append(found.detach().double())
        ends = [(conditioning.tensors[name], leaf.grad) for name, leaf in leaves.tensors.items()]
        outputs, gradients = zip(*[end for end in ends if end[1] is not None], strict=True)
        (gradient,) = torch.autograd.grad(outputs, vectors, gradients)
        terms = torch.cat(errors) / weight * self.bound_weights[samples.cells] * samples.importance
        mean = terms.view(len(rows), self.draws).mean(1)
        return gradient / self.draws, self.constant[rows] - mean

    def draw(self, rows: Tensor, step: int) -> tuple[Tensor, NoiseSamples, Tensor]:
        """The noise samples of one step for some images.

        Args:
            rows: which images, (A,).
            step: the gradient step.

        Returns:
            Noisy latents (A draws, C, h, w), their noise samples, and the index into `rows` of
            each.
        """
        spread = self.rounds * torch.arange(self.draws, device=rows.device)
        picked = self.order[rows, step][:, None] + spread
        samples = self.training.map(lambda tensor: tensor[rows[:, None], picked].flatten(0, 1))
        owner = torch.arange(len(rows), device=rows.device).repeat_interleave(self.draws)
        schedule = self.model.schedule.to(rows.device)
        noisy = schedule.noisy(self.latents[rows][owner], samples.noise, samples.steps)
        return noisy, samples, owner

    def held_out_terms(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Terms (A, M) of the held-out bounds of some images; see `bound_terms`."""
        with torch.no_grad():
            conditioning = self.conditioning_of(vectors, rows)
        return bound_terms(self.model, self.latents[rows], conditioning, self.held_out[rows])
