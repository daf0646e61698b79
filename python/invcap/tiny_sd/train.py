"""The two stages of tiny-sd's training: pictures to latents and back, then noise to latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from invcap.autoencoder import to_unit_range
from invcap.data.shapes import Scene
from invcap.tiny_sd.captions import draw_caption
from invcap.tiny_sd.fit import FitSettings, fit
from invcap.tiny_sd.networks import new_scheduler, new_text_encoder, new_unet, new_vae

VAE_BATCH = 32
KL_WEIGHT = 1e-4  # of the mean over latent numbers, beside the mean squared error over pixels
PICTURES = 32
DRAWS = 2  # of step and noise for each picture of a batch: the text is encoded once for all
LATE = 0.7  # steps are drawn as 1000 u^LATE: below 1, more of those where words matter
ENCODED_AT_ONCE = 256

OnStep = Callable[[int, float], None]


def train_vae(
    pixels: np.ndarray, settings: FitSettings, path: Path, data: str, on_step: OnStep
) -> tuple[AutoencoderKL, Tensor]:
    """Trains the autoencoder on pictures (N, 32, 32, 3), and sets its scaling factor.

    Args:
        path: of the checkpoint.
        data: what the checkpoint says of the data: another one's is refused.

    Returns:
        The autoencoder, and the scaled latents of the pictures, (N, 6, 8, 8), of variance 1.
    """
    torch.manual_seed(settings.seed)

    def loss_at(vae: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(pixels), (VAE_BATCH,), generator=generator).numpy()
        pictures = to_unit_range(pixels[chosen])
        posterior = vae.encode(pictures).latent_dist
        error = F.mse_loss(vae.decode(posterior.sample(generator)).sample, pictures)
        return error + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()

    vae = fit(new_vae(), loss_at, settings, path, {"stage": "vae", "data": data}, on_step)
    latents = encode(vae, pixels)
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    return vae, latents * vae.config.scaling_factor


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: np.ndarray) -> Tensor:
    """Maps pictures (N, H, W, 3) to the means of their latents (N, C, h, w), not scaled."""
    batches = to_unit_range(pixels).split(ENCODED_AT_ONCE)
    return torch.cat([vae.encode(batch).latent_dist.mode() for batch in batches])


class Denoiser(nn.Module):
    """The text encoder and the UNet, which are trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = new_text_encoder(tokenizer)
        self.unet = new_unet()


def train_denoiser(
    latents: Tensor,
    scenes: Sequence[Scene],
    tokenizer: CLIPTokenizer,
    settings: FitSettings,
    path: Path,
    data: str,
    on_step: OnStep,
) -> Denoiser:
    """Trains the text encoder and the UNet to tell the noise in noisy latents.

    Args:
        latents: (N, 6, 8, 8), scaled.
        scenes: the N scenes that the latents show.
        path: of the checkpoint.
        data: what the checkpoint says of the data: another one's is refused.
    """
    torch.manual_seed(settings.seed)
    denoiser = Denoiser(tokenizer).to(memory_format=torch.channels_last)
    scheduler = new_scheduler()

    def loss_at(model: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (PICTURES,), generator=generator)
        captions = [draw_caption(scenes[i], generator) for i in chosen.tolist()]
        clean = latents[chosen].repeat_interleave(DRAWS, 0)
        noise = torch.randn(clean.shape, generator=generator)
        steps = draw_steps(len(clean), generator)
        noisy = scheduler.add_noise(clean, noise, steps)
        hidden = model.text_encoder(token_ids(tokenizer, captions))[0]
        predicted = model.unet(noisy, steps, hidden.repeat_interleave(DRAWS, 0)).sample
        return F.mse_loss(predicted, noise)

    identity = {"stage": "denoiser", "data": data}
    trained = fit(denoiser, loss_at, settings, path, identity, on_step)
    return trained.to(memory_format=torch.contiguous_format)


def draw_steps(count: int, generator: torch.Generator) -> Tensor:
    """Draws diffusion steps (count,), one from each of equal shares of their distribution."""
    shares = torch.randperm(count, generator=generator)
    u = (shares + torch.rand(count, generator=generator)) / count
    return (1000 * u**LATE).long().clamp(max=999)


def token_ids(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids (N, 77), padded and cut as `StableDiffusionPipeline` does it."""
    return tokenizer(
        list(captions),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
