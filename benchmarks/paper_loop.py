"""The paper's optimisation as it describes it: one draw of (t, noise) a step, and no safeguards.

Source: "Image captioning with text-to-image models", sections 3, 4 and 5.1.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from invcap.diffusion.noise_samples import NoiseSamples, draw_samples
from invcap.prompt_inversion import PromptInversionPipeline


def paper_loop(
    pipeline: PromptInversionPipeline,
    latents: Tensor,
    start: Tensor,
    seeds: Sequence[int],
    optimizer: type[torch.optim.Optimizer],
    learning_rates: Sequence[float],
    steps: int,
    measure_every: int,
    held_out: int = 64,
    on_step: Callable[[int], None] = lambda step: None,
) -> tuple[Tensor, Tensor]:
    """Descends the paper's loss, P independent runs as one batch.

    Args:
        latents: (P, C, h, w), of the pictures.
        start: (77, d), where all begin.
        seeds, learning_rates: of the P runs.
        measure_every: steps between measurements of the bound, which cost the runs nothing.
        held_out: pairs of the bank that measures; it is that of `PromptInversionPipeline.invert`
            for equal seeds.

    Returns:
        The bounds, (1 + steps // measure_every, P) float64, the first before any step; and where
        the runs end, (P, 77, d).
    """
    schedule, shape = pipeline.schedule, tuple(latents.shape[1:])
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    banks = [draw_samples(schedule, held_out, shape, generator) for generator in generators]
    runs = [start.clone().requires_grad_() for _ in seeds]
    descent = optimizer(
        [{"params": [run], "lr": rate} for run, rate in zip(runs, learning_rates, strict=True)]
    )
    weights = schedule.weights("mean").float()
    bounds = [_measure(pipeline, latents, runs, banks)]
    for step in range(1, steps + 1):
        t = torch.cat([torch.randint(1, len(schedule), (1,), generator=g) for g in generators])
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
        noisy = schedule.noisy(latents, noise, t)
        loss = pipeline.squared_errors(noisy, noise, t, torch.stack(runs), weights[t])
        descent.zero_grad()
        loss.sum().backward()
        descent.step()
        if step % measure_every == 0:
            bounds.append(_measure(pipeline, latents, runs, banks))
        on_step(step)
    return torch.stack(bounds), torch.stack(runs).detach()


def _measure(
    pipeline: PromptInversionPipeline,
    latents: Tensor,
    runs: list[Tensor],
    banks: list[NoiseSamples],
) -> Tensor:
    measured = zip(latents, runs, banks, strict=True)
    return torch.stack([pipeline.bound_terms(x, run.detach(), b).mean() for x, run, b in measured])
