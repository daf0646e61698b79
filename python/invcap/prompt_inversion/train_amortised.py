"""Training of the amortised start: first towards captions, then on the bound itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.noise_samples import draw_samples
from invcap.prompt_inversion.amortised import AmortisedStart
from invcap.prompt_inversion.objective import squared_errors
from invcap.training.muon import Muon
from invcap.training.trainer import FitSettings, fit

CAPTIONS_AT_ONCE = 512


@dataclass(frozen=True)
class AmortisedSettings:
    """How an amortised start is trained.

    Attributes:
        caption_steps: of 512 pairs each, towards captions; the UNet has no part in them.
        steps: on the bound.
        batch_size: pictures a step, with one UNet evaluation each.
        network_rate, basis_rate, mean_rate: learning rates of AdamW on the bound.
        seed: of weights, batches and noise.
    """

    caption_steps: int = 1500
    steps: int = 12000
    batch_size: int = 64
    network_rate: float = 2e-4
    basis_rate: float = 5e-4
    mean_rate: float = 1e-2
    seed: int = 0


def train_amortised(
    model: FrozenTextToImage,
    latents: Tensor,
    hidden: Tensor,
    settings: AmortisedSettings,
    work: Path,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> AmortisedStart:
    """Trains an amortised start, with checkpoints in a folder, from which it goes on.

    Args:
        latents: (N, C, h, w), of training pictures.
        hidden: (N, 77, d), of their captions.
        work: folder of the checkpoints.
        on_step: called with (steps done, loss) after each step of either stage.
    """
    torch.manual_seed(settings.seed)
    start = AmortisedStart.of(latents, hidden)
    with torch.no_grad():
        codes = torch.cat([start.code_of(part) for part in hidden.split(CAPTIONS_AT_ONCE)])
    scale = codes.square().sum(1).mean()

    def caption_loss(start: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (CAPTIONS_AT_ONCE,), generator=generator)
        missing = start.code(latents[chosen]) - codes[chosen]
        return missing.square().sum(1).mean() / scale

    def bound_loss(start: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (settings.batch_size,), generator=generator)
        schedule, clean = model.schedule, latents[chosen]
        bank = draw_samples(
            schedule, len(chosen), tuple(clean.shape[1:]), generator, None, schedule.weights()
        )
        noisy = schedule.noisy(clean, bank.noise, bank.steps)
        weight = torch.full((len(chosen),), 1 / clean.numel())
        conditioning = Conditioning({model.optimized: start(clean)})
        return squared_errors(model, noisy, bank.noise, bank.steps, conditioning, weight).sum()

    factors = [layer.lu for layer in start.network.layers]
    biases = [layer.bias for layer in start.network.layers]
    identity = model.fingerprint + f", {len(latents)} pictures"
    start = fit(
        start,
        caption_loss,
        FitSettings(settings.caption_steps, decay=1.0, seed=settings.seed),
        work / "captions.safetensors",
        {"of": identity},
        on_step,
        [Muon(factors, 0.03), torch.optim.AdamW(biases, 2e-3, weight_decay=0)],
    ).requires_grad_(True)
    groups = [
        {"params": [*start.network.parameters()], "lr": settings.network_rate},
        {"params": [start.basis], "lr": settings.basis_rate},
        {"params": [start.mean], "lr": settings.mean_rate},
    ]
    return fit(
        start,
        bound_loss,
        FitSettings(settings.steps, decay=1.0, max_norm=10.0, seed=settings.seed),
        work / "bound.safetensors",
        {"of": identity},
        on_step,
        [torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0)],
    )
