"""Training of the amortised start: first on the codes of captions, then on the bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from invcap.checks import check_at_least, check_finite
from invcap.data.shards import Rows
from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.noise_samples import draw_samples
from invcap.prompt_inversion.amortised import AmortisedStart
from invcap.prompt_inversion.objective import squared_errors
from invcap.training.muon import Muon
from invcap.training.trainer import Batch, Loss, TrainerSettings, train

CAPTIONS_AT_ONCE = 512
SCALE_OF = 4096
AVERAGE = 0.995


@dataclass(frozen=True)
class AmortisedSettings:
    """How an amortised start is trained.

    Attributes:
        caption_steps: steps of the first stage, on 512 pairs each, without the denoiser.
        steps: steps of the second stage, on the bound.
        batch_size: images per step of the second stage, with one denoiser evaluation each.
        gradient_accumulation: number of parts that a batch is computed in.
        network_rate, basis_rate, mean_rate: AdamW's learning rates in the second stage.
        checkpoint_every: steps between checkpoints.
        seed: seed of weights, batches and noise.
    """

    caption_steps: int = 1500
    steps: int = 12000
    batch_size: int = 64
    gradient_accumulation: int = 1
    network_rate: float = 2e-4
    basis_rate: float = 5e-4
    mean_rate: float = 1e-2
    checkpoint_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "caption_steps")
        check_finite(self, "network_rate", "basis_rate", "mean_rate", above_zero=True)
        self.trainer()

    def captions_trainer(self) -> TrainerSettings:
        """Settings of the first stage, on captions."""
        return TrainerSettings(
            self.caption_steps,
            CAPTIONS_AT_ONCE,
            average=AVERAGE,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
            name="amortised start, captions",
        )

    def trainer(self) -> TrainerSettings:
        """Settings of the second stage, on the bound."""
        return TrainerSettings(
            self.steps,
            self.batch_size,
            warmup=0.004,
            average=AVERAGE,
            max_norm=10.0,
            gradient_accumulation=self.gradient_accumulation,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
            name="amortised start, bound",
        )


def train_amortised(
    model: FrozenTextToImage,
    start: AmortisedStart,
    latents: Rows,
    codes: Rows,
    settings: AmortisedSettings,
    identity: Mapping[str, Any],
    work: Path,
    accelerator: Accelerator,
) -> AmortisedStart:
    """Trains an amortised start; resumes from the checkpoints in a folder.

    Args:
        model: the model.
        start: the untrained start, see `AmortisedStart.of`.
        latents: (N, C h w), of training images.
        codes: (N, K), of their captions.
        settings: how it is trained.
        identity: identity of model and data; checkpoints of others are refused.
        work: folder of the checkpoints.
        accelerator: the device, the precision and the processes.

    Raises:
        TrainingDivergedError: a loss is not finite.
        ValueError: a checkpoint belongs to another model, data or settings.
    """
    shape = start.latent_shape

    def draw_captions(generator: torch.Generator, part: slice) -> Batch:
        chosen = torch.randint(len(latents), (CAPTIONS_AT_ONCE,), generator=generator)[part]
        return {"latents": latents[chosen].view(-1, *shape), "codes": codes[chosen]}

    def draw_noise(generator: torch.Generator, part: slice) -> Batch:
        count = settings.batch_size
        chosen = torch.randint(len(latents), (count,), generator=generator)
        density = model.schedule.density()
        samples = draw_samples(model.schedule, count, shape, generator, None, density)
        return {
            "latents": latents[chosen[part]].view(-1, *shape),
            "noise": samples.noise[part],
            "steps": samples.steps[part],
        }

    start = train(
        start,
        caption_loss(codes),
        draw_captions,
        caption_optimizers(start),
        settings.captions_trainer(),
        work / "captions.safetensors",
        identity,
        accelerator,
    ).average
    rates = {name: getattr(settings, name) for name in ("network_rate", "basis_rate", "mean_rate")}
    return train(
        start,
        bound_loss(model),
        draw_noise,
        bound_optimizers(start, settings),
        settings.trainer(),
        work / "bound.safetensors",
        {**identity, **rates},
        accelerator,
    ).average


def caption_loss(codes: Rows) -> Loss:
    """Squared error of predicted caption codes, divided by the codes' mean square."""
    some = codes[torch.arange(min(len(codes), SCALE_OF))]
    scale = some.square().sum(1).mean().item()

    def loss(start: AmortisedStart, batch: Batch) -> dict[str, Tensor]:
        missing = start.code(batch["latents"]) - batch["codes"]
        return {"captions": missing.square().sum(1).mean() / scale}

    return loss


def bound_loss(model: FrozenTextToImage) -> Loss:
    """Weighted squared error of the denoiser with a start's prompts, per latent number."""
    with torch.no_grad():
        shape = model.conditioning_shapes[model.optimized]
        neutral = model.conditioning_of(torch.zeros(1, *shape, device=model.device))

    def loss(start: AmortisedStart, batch: Batch) -> dict[str, Tensor]:
        latents, noise, steps = batch["latents"], batch["noise"], batch["steps"]
        schedule = model.schedule.to(latents.device)
        noisy = schedule.noisy(latents, noise, steps)
        others = neutral.map(lambda tensor: tensor.expand(len(latents), *tensor.shape[1:]))
        conditioning = others.replace(**{model.optimized: start(latents)})
        weight = schedule.drawn_weights().to(latents.dtype)[steps.long()] / latents[0].numel()
        errors = squared_errors(model, noisy, noise, steps, conditioning, weight)
        return {"bound": errors.mean()}

    return loss


def caption_optimizers(start: AmortisedStart) -> list[torch.optim.Optimizer]:
    """For the network only: Muon on its triangular factors, AdamW on its biases."""
    factors = [layer.lu for layer in start.network.layers]
    biases = [weight for weight in start.network.parameters() if weight.ndim == 1]
    return [Muon(factors, 0.03), torch.optim.AdamW(biases, 2e-3, weight_decay=0)]


def bound_optimizers(
    start: AmortisedStart, settings: AmortisedSettings
) -> list[torch.optim.Optimizer]:
    """AdamW on network, basis and mean, with a learning rate for each."""
    groups = [
        {"params": [*start.network.parameters()], "lr": settings.network_rate},
        {"params": [start.basis], "lr": settings.basis_rate},
        {"params": [start.mean], "lr": settings.mean_rate},
    ]
    return [torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0)]
