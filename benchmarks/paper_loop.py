"""The optimization as the paper describes it: one sample of (t, noise) per step, no safeguards.

Source: "Image captioning with text-to-image models", sections 3, 4 and 5.1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.noise_samples import draw_samples, stack
from invcap.prompt_inversion.objective import bound_terms, squared_errors
from invcap.prompt_inversion.parametrization import parametrize


def paper_loop(
    model: FrozenTextToImage,
    latents: Tensor,
    start: Conditioning,
    seeds: Sequence[int],
    optimizer: type[torch.optim.Optimizer],
    learning_rates: Sequence[float],
    steps: int,
    measure_every: int,
    held_out: int = 64,
) -> tuple[Tensor, Conditioning]:
    """Descends the paper's loss, P independent runs as one batch.

    Args:
        latents: (P, C, h, w), of the pictures.
        start: the initial prompt of all runs.
        seeds, learning_rates: one for each of the P runs.
        measure_every: steps between measurements of the bound; their evaluations are not counted.
        held_out: number of noise samples for a measurement, the same as those of
            `PromptInversionPipeline.invert` with equal seeds.

    Returns:
        The bounds, (1 + steps // measure_every, P) float64, the first before any step; and the P
        final prompts.
    """
    schedule, shape, rows = model.schedule, tuple(latents.shape[1:]), torch.arange(len(seeds))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    samples = stack([draw_samples(schedule, held_out, shape, one) for one in generators])
    vectors, prompts_of = parametrize(model, start[[0] * len(seeds)], "hidden_states")
    runs = [vector.clone().requires_grad_() for vector in vectors.split(1)]
    descent = optimizer(
        [{"params": [run], "lr": rate} for run, rate in zip(runs, learning_rates, strict=True)]
    )
    weights, bounds = schedule.weights("mean").float(), []
    for step in tqdm(range(steps + 1), desc="the paper's loop"):
        prompts = prompts_of(torch.cat(runs), rows)
        if step % measure_every == 0:
            bounds.append(bound_terms(model, latents, prompts, samples).mean(1))
        if step < steps:
            t = torch.cat([torch.randint(1, len(schedule), (1,), generator=g) for g in generators])
            noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
            noisy = schedule.noisy(latents, noise, t)
            loss = squared_errors(model, noisy, noise, t, prompts, weights[t])
            descent.zero_grad()
            loss.sum().backward()
            descent.step()
    return torch.stack(bounds), prompts.map(Tensor.detach)
