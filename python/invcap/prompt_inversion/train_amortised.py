"""Training of the amortised start: first towards captions, then on the bound itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from invcap.data.shards import Rows
from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.noise_samples import draw_samples
from invcap.prompt_inversion.amortised import AmortisedStart
from invcap.prompt_inversion.objective import squared_errors
from invcap.training.muon import Muon
from invcap.training.trainer import Batch, TrainerSettings, train

CAPTIONS_AT_ONCE = 512
AVERAGE = 0.995


@dataclass(frozen=True)
class AmortisedSettings:
    """How an amortised start is trained.

    Attributes:
        caption_steps: of 512 pairs each, towards captions; the denoiser has no part in them.
        steps: on the bound.
        batch_size: images a step, with one evaluation of the denoiser each.
        gradient_accumulation: parts that those are computed in.
        network_rate, basis_rate, mean_rate: learning rates of AdamW on the bound.
        seed: of weights, batches and noise.
    """

    caption_steps: int = 1500
    steps: int = 12000
    batch_size: int = 64
    gradient_accumulation: int = 1
    network_rate: float = 2e-4
    basis_rate: float = 5e-4
    mean_rate: float = 1e-2
    seed: int = 0


def train_amortised(
    model: FrozenTextToImage,
    start: AmortisedStart,
    latents: Rows,
    codes: Rows,
    settings: AmortisedSettings,
    work: Path,
    accelerator: Accelerator,
) -> AmortisedStart:
    """Trains an amortised start, with checkpoints in a folder, from which it resumes.

    Args:
        start: of `AmortisedStart.of`.
        latents: (N, C h w), of training images.
        codes: (N, K), of their captions.
        work: folder of the checkpoints.
    """
    identity = {"model": model.fingerprint, "images": str(len(latents))}
    shape = start.latent_shape
    scale = torch.as_tensor(codes[torch.arange(min(len(codes), 4096))]).square().sum(1).mean()

    def draw_captions(generator: torch.Generator, part: slice) -> Batch:
        chosen = torch.randint(len(latents), (CAPTIONS_AT_ONCE,), generator=generator)[part]
        return {"latents": latents[chosen].view(-1, *shape), "codes": codes[chosen]}

    def caption_loss(start: AmortisedStart, batch: Batch) -> dict[str, Tensor]:
        missing = start.code(batch["latents"]) - batch["codes"]
        return {"captions": missing.square().sum(1).mean() / scale.to(missing.device)}

    def draw_noise(generator: torch.Generator, part: slice) -> Batch:
        count = settings.batch_size
        chosen = torch.randint(len(latents), (count,), generator=generator)
        density = model.schedule.weights()
        samples = draw_samples(model.schedule, count, shape, generator, None, density)
        return {
            "latents": latents[chosen[part]].view(-1, *shape),
            "noise": samples.noise[part],
            "steps": samples.steps[part],
        }

    factors = [layer.lu for layer in start.network.layers]
    biases = [layer.bias for layer in start.network.layers if layer.bias is not None]
    start = train(
        start,
        caption_loss,
        draw_captions,
        [Muon(factors, 0.03), torch.optim.AdamW(biases, 2e-3, weight_decay=0)],
        TrainerSettings(
            settings.caption_steps,
            CAPTIONS_AT_ONCE,
            warmup=0.03,
            decay=1.0,
            average=AVERAGE,
            seed=settings.seed,
        ),
        work / "captions.safetensors",
        identity,
        accelerator,
    ).average.requires_grad_(True)
    groups = [
        {"params": [*start.network.parameters()], "lr": settings.network_rate},
        {"params": [start.basis], "lr": settings.basis_rate},
        {"params": [start.mean], "lr": settings.mean_rate},
    ]
    return train(
        start,
        lambda start, batch: {"bound": bound_loss(model, start, batch)},
        draw_noise,
        [torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0)],
        TrainerSettings(
            settings.steps,
            settings.batch_size,
            warmup=0.004,
            decay=1.0,
            average=AVERAGE,
            max_norm=0.15,
            gradient_accumulation=settings.gradient_accumulation,
            seed=settings.seed,
        ),
        work / "bound.safetensors",
        identity,
        accelerator,
    ).average


def bound_loss(model: FrozenTextToImage, start: AmortisedStart, batch: Batch) -> Tensor:
    """Mean squared error of the denoiser under the prompts of a start, over latent numbers."""
    latents, noise, steps = batch["latents"], batch["noise"], batch["steps"]
    noisy = model.schedule.to(latents.device).noisy(latents, noise, steps)
    weight = torch.full_like(latents.flatten(1)[:, 0], 1 / latents[0].numel())
    conditioning = Conditioning({model.optimized: start(latents)})
    return squared_errors(model, noisy, noise, steps, conditioning, weight).mean()
