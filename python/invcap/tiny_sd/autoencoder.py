"""The autoencoder of the embedded models, and its training on images drawn afresh."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from invcap.data.shapes import Scene, draw, jitter_of
from invcap.encoders.autoencoder import to_unit_range
from invcap.tiny_sd.stage import Stage, train_stage
from invcap.training.trainer import Batch

LATENT_CHANNELS = 6
LATENT_SIDE = 8
LATENT_SHAPE = (LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE)
BATCH = 32
KL_WEIGHT = 1e-4  # of the mean over latent numbers, beside the mean squared error over pixels
SCALED_BY = 2048  # images that the scaling factor is measured on


def new_vae() -> AutoencoderKL:
    """Images (N, 3, 32, 32) in [-1, 1] to latents (N, 6, 8, 8), and back."""
    return AutoencoderKL(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=4 * LATENT_SIDE,
        mid_block_add_attention=False,
    )


def draw_images(scenes: Sequence[Scene], generator: torch.Generator) -> Tensor:
    """A new drawing of each scene: (N, 32, 32, 3) bytes."""
    numbers = torch.randint(2**31, (len(scenes),), generator=generator).tolist()
    drawn = [
        draw(scene, jitter=jitter_of(scene, n)) for scene, n in zip(scenes, numbers, strict=True)
    ]
    return torch.from_numpy(np.stack([np.asarray(image) for image in drawn]))


def train_vae(vae: AutoencoderKL, scenes: Sequence[Scene], stage: Stage) -> AutoencoderKL:
    """Trains an autoencoder on drawings of scenes, and sets its scaling factor."""

    def draw_batch(generator: torch.Generator, part: slice) -> Batch:
        chosen = torch.randint(len(scenes), (BATCH,), generator=generator).tolist()
        images = draw_images([scenes[i] for i in chosen], generator)
        noise = torch.randn(BATCH, *LATENT_SHAPE, generator=generator)
        return {"pixels": images[part], "noise": noise[part]}

    vae = train_stage(vae, vae_loss, draw_batch, BATCH, stage, divergence=KL_WEIGHT)
    some = draw_images(scenes[:: -(-len(scenes) // SCALED_BY)], torch.Generator().manual_seed(0))
    deviation = encode(vae, some).std().item()
    vae.register_to_config(scaling_factor=1 / deviation, shift_factor=0.0)
    return vae


def vae_loss(vae: AutoencoderKL, batch: Batch) -> dict[str, Tensor]:
    """Squared error of images decoded from a draw of their posterior, and its divergence."""
    images = to_unit_range(batch["pixels"])
    posterior = vae.encode(images).latent_dist
    drawn = posterior.mean + posterior.std * batch["noise"]
    return {
        "error": F.mse_loss(vae.decode(drawn).sample, images),
        "divergence": posterior.kl().mean() / posterior.mean[0].numel(),
    }


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Maps images (N, H, W, 3) to means of latents (N, C, h, w), not scaled."""
    images = to_unit_range(pixels.to(vae.device))
    return torch.cat([vae.encode(some).latent_dist.mode() for some in images.split(256)])
