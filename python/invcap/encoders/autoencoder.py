"""A small convolutional autoencoder, with the interface of diffusers' AutoencoderTiny."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.nn.functional as differentiable
from accelerate import Accelerator
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from invcap.checks import check_at_least, check_finite
from invcap.data.shards import Rows
from invcap.training.muon import Muon
from invcap.training.trainer import Batch, TrainerSettings, train

PATCH = 4


class ConvAutoencoder(ModelMixin, ConfigMixin):
    """Patches of `patch` x `patch` pixels become `latent_channels` numbers, and back.

    All convolutions run at the latent's resolution, where they are cheap; batch normalization
    (statistics frozen after training) keeps every latent channel at unit variance.

    Shapes: images (N, 3, H, W) in [-1, 1]; latents (N, latent_channels, H / patch, W / patch).
    """

    @register_to_config
    def __init__(
        self, latent_channels: int = 6, patch: int = PATCH, channels: int = 96, blocks: int = 2
    ) -> None:
        super().__init__()
        pixels = 3 * patch**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(patch),
            nn.Conv2d(pixels, channels, 3, padding=1),
            *(ResidualBlock(channels) for _ in range(blocks)),
            nn.Conv2d(channels, latent_channels, 1),
            LatentNorm(latent_channels, affine=False),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, channels, 3, padding=1),
            *(ResidualBlock(channels) for _ in range(blocks)),
            nn.GELU(),
            nn.Conv2d(channels, pixels, 3, padding=1),
            nn.PixelShuffle(patch),
        )

    def encode(self, images: Tensor) -> AutoencoderTinyOutput:
        """Maps images to latents."""
        return AutoencoderTinyOutput(latents=self.encoder(images))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Maps latents to images."""
        return DecoderOutput(sample=self.decoder(latents))


class ResidualBlock(nn.Module):
    """x + B gelu(A x), A a 3 x 3 convolution and B a 1 x 1, which starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 1)
        for weight in self.mix.parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.gelu(self.spatial(x)))


class LatentNorm(nn.BatchNorm2d):
    """Batch normalization by the statistics of the whole batch, over all processes."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and distributed.is_initialized()):
            return super().forward(x)
        axes, wide = (0, 2, 3), x.float()
        count = wide.new_full((self.num_features,), x.numel() / self.num_features)
        total, count = differentiable.all_reduce(torch.stack([wide.sum(axes), count]))
        mean = total / count
        centred = wide - mean.view(-1, 1, 1)
        variance = differentiable.all_reduce(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = (variance + self.eps).rsqrt()
        return (centred * scale.view(-1, 1, 1)).to(x.dtype)


@dataclass(frozen=True)
class AutoencoderSettings:
    """How an autoencoder is trained.

    Attributes:
        steps: optimizer steps.
        batch_size: images a step.
        learning_rate: peak, for Muon on the weights, of a linear warm-up and decay.
        noise: standard deviation of what is added to latents, which have unit variance, so that
            the decoder tolerates the small errors of generated ones.
        seed: of weights, batches and noise.
    """

    steps: int = 900
    batch_size: int = 32
    learning_rate: float = 0.03
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "batch_size", of="autoencoder ")
        check_finite(self, "learning_rate", above_zero=True)
        check_finite(self, "noise", above_zero=False)


def train_autoencoder(
    pixels: Rows,
    size: tuple[int, int],
    latent_channels: int,
    settings: AutoencoderSettings,
    path: Path,
    identity: dict[str, Any],
    accelerator: Accelerator,
) -> ConvAutoencoder:
    """Trains a `ConvAutoencoder` to reproduce images, from the checkpoint at `path` if it is there.

    Args:
        pixels: (N, H * W * 3), uint8.
        size: (H, W).
        latent_channels: numbers per patch.
        identity: what the checkpoint must have been made with.

    Returns:
        The autoencoder, in evaluation mode.

    Raises:
        TrainingDivergedError: the loss is not finite.
    """
    height, width = size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = ConvAutoencoder(latent_channels).to(memory_format=torch.channels_last)
    latent_shape = (latent_channels, height // PATCH, width // PATCH)

    def draw(generator: torch.Generator, part: slice) -> Batch:
        chosen = torch.randint(len(pixels), (settings.batch_size,), generator=generator)
        noise = torch.randn(settings.batch_size, *latent_shape, generator=generator)
        return {
            "pixels": pixels[chosen[part]].view(-1, *size, 3),
            "noise": settings.noise * noise[part],
        }

    trainer = TrainerSettings(
        settings.steps, settings.batch_size, seed=settings.seed, name="autoencoder"
    )
    optimizers = make_optimizers(model, settings)
    return train(
        model, reconstruction_loss, draw, optimizers, trainer, path, identity, accelerator
    ).module


def reconstruction_loss(model: ConvAutoencoder, batch: Batch) -> dict[str, Tensor]:
    """Mean squared error of images, (N, H, W, 3) bytes, decoded from latents with noise."""
    images = to_unit_range(batch["pixels"])
    noisy = model.encode(images).latents + batch["noise"]
    return {"error": F.mse_loss(model.decode(noisy).sample, images)}


def make_optimizers(
    model: ConvAutoencoder, settings: AutoencoderSettings
) -> list[torch.optim.Optimizer]:
    """Muon on the weights and AdamW on the biases."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    return [
        Muon(weights, settings.learning_rate),
        torch.optim.AdamW(biases, settings.learning_rate / 10, weight_decay=0),
    ]


def to_unit_range(pixels: np.ndarray | Tensor) -> Tensor:
    """(N, H, W, 3) bytes to (N, 3, H, W) floats in [-1, 1]."""
    return torch.as_tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) floats in [-1, 1] to (N, H, W, 3) bytes; what lies outside is clipped."""
    scaled = ((images.float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
