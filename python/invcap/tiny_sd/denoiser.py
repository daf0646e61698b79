"""Training of a denoiser and its text encoders on drawings of scenes under captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from invcap.data.shapes import Scene
from invcap.tiny_sd.autoencoder import LATENT_SHAPE, draw_images, encode
from invcap.tiny_sd.captions import draw_caption
from invcap.tiny_sd.stage import Stage, token_ids, train_stage
from invcap.training.trainer import Batch, Loss, Module

IMAGES = 32
DRAWS = 2  # of time and noise for each image of a batch: the text is encoded once for all
LATE = 0.7  # times are u^LATE: below 1, more of those where words matter


class TrainedByError(Protocol):
    """What `stable_diffusion.Denoiser` and `stable_diffusion_3.Denoiser` have in common."""

    def error(self, latents: Tensor, ids: Tensor, noise: Tensor, times: Tensor) -> Tensor: ...


def train_denoiser(
    denoiser: Module,
    vae: AutoencoderKL,
    scenes: Sequence[Scene],
    tokenizer: CLIPTokenizer,
    stage: Stage,
) -> Module:
    """Trains a denoiser, in place, on the latents of new drawings in every step."""
    vae.requires_grad_(False).to(stage.accelerator.device)

    def draw(generator: torch.Generator, part: slice) -> Batch:
        indices = torch.randint(len(scenes), (IMAGES,), generator=generator).tolist()
        chosen = [scenes[i] for i in indices]
        captions = [draw_caption(scene, generator) for scene in chosen]
        images = draw_images(chosen, generator)
        noise = torch.randn(IMAGES, DRAWS, *LATENT_SHAPE, generator=generator)
        times = draw_times(IMAGES * DRAWS, generator).view(IMAGES, DRAWS)
        return {
            "pixels": images[part],
            "ids": token_ids(tokenizer, captions[part]),
            "noise": noise[part],
            "times": times[part],
        }

    return train_stage(denoiser, denoiser_loss(vae), draw, IMAGES, stage)


def denoiser_loss(vae: AutoencoderKL) -> Loss:
    """The squared error of a denoiser, in latents of the autoencoder."""

    def loss(denoiser: TrainedByError, batch: Batch) -> dict[str, Tensor]:
        latents = encode(vae, batch["pixels"]) * vae.config.scaling_factor
        return {"velocity": denoiser.error(latents, batch["ids"], batch["noise"], batch["times"])}

    return loss


def draw_times(count: int, generator: torch.Generator) -> Tensor:
    """Draws times in [0, 1), (count,), one from each of equal shares of their distribution."""
    shares = torch.randperm(count, generator=generator)
    u = (shares + torch.rand(count, generator=generator)) / count
    return (u**LATE).clamp(max=1 - 2**-24)
