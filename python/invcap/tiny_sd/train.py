"""tiny-sd's training: pictures to latents and back, words to what they name, noise to latents."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from invcap.data.shapes import COLOURS, PLACES, SHAPES, SIZES, Scene
from invcap.encoders.autoencoder import to_unit_range
from invcap.tiny_sd.captions import draw_caption, draw_wording
from invcap.tiny_sd.networks import TEXT_WIDTH, new_scheduler, new_text_encoder, new_unet, new_vae
from invcap.training.trainer import FitSettings, fit

VAE_BATCH = 32
KL_WEIGHT = 1e-4  # of the mean over latent numbers, beside the mean squared error over pixels
FACTORS = {
    "size": list(SIZES),
    "colour": list(COLOURS),
    "shape": list(SHAPES),
    "place": list(PLACES),
    "background": list(COLOURS),
}
CAPTIONS = 64
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


class Reader(nn.Module):
    """A text encoder, and what can be read off the mean of its hidden states by linear maps."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = new_text_encoder(tokenizer)
        self.heads = nn.ModuleDict(
            {factor: nn.Linear(TEXT_WIDTH, len(names)) for factor, names in FACTORS.items()}
        )


def train_text_encoder(
    scenes: Sequence[Scene],
    tokenizer: CLIPTokenizer,
    settings: FitSettings,
    path: Path,
    data: str,
    on_step: OnStep,
) -> CLIPTextModel:
    """Teaches the text encoder to tell which colour, shape, place, ... a caption names.

    Attention in a new UNet looks at all hidden states alike, so this is what their mean should say.
    Trained together from the start, places were still drawn by chance after 4,000 steps.
    """
    torch.manual_seed(settings.seed)

    def loss_at(reader: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(scenes), (CAPTIONS,), generator=generator).tolist()
        said = [(asdict(scenes[i]), draw_wording(generator)) for i in chosen]
        ids = token_ids(tokenizer, [wording.format(**scene) for scene, wording in said])
        mean = reader.text_encoder(ids)[0].mean(1)
        losses = []
        for factor, names in FACTORS.items():
            named = [f"{{{factor}}}" in wording for _, wording in said]
            target = torch.tensor([names.index(scene[factor]) for scene, _ in said])
            losses.append(F.cross_entropy(reader.heads[factor](mean[named]), target[named]))
        return torch.stack(losses).mean()

    identity = {"stage": "text encoder", "data": data}
    return fit(Reader(tokenizer), loss_at, settings, path, identity, on_step).text_encoder


class Denoiser(nn.Module):
    """The text encoder and the UNet, which are trained together."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = new_unet()


def train_denoiser(
    latents: Tensor,
    scenes: Sequence[Scene],
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    settings: FitSettings,
    path: Path,
    data: str,
    on_step: OnStep,
) -> Denoiser:
    """Trains the text encoder further and the UNet to tell the velocity of noisy latents.

    Args:
        latents: (N, 6, 8, 8), scaled.
        scenes: the N scenes that the latents show.
        text_encoder: as `train_text_encoder` gives it; it is left as it is.
        path: of the checkpoint.
        data: what the checkpoint says of the data: another one's is refused.
    """
    torch.manual_seed(settings.seed)
    denoiser = Denoiser(copy.deepcopy(text_encoder).requires_grad_()).to(
        memory_format=torch.channels_last
    )
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
        return F.mse_loss(predicted, scheduler.get_velocity(clean, noise, steps))

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
