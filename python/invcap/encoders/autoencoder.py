"""A small convolutional autoencoder, with the interface of diffusers' AutoencoderTiny."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn
from torch.nn import functional as F

from invcap.training.muon import Muon

WARMUP = 30


class ConvAutoencoder(ModelMixin, ConfigMixin):
    """Patches of `patch` x `patch` pixels become `latent_channels` numbers, and back.

    All convolutions run at the latent's resolution, where they are cheap; batch normalisation
    (statistics frozen after training) keeps every latent channel at unit variance.

    Shapes: pictures (N, 3, H, W) in [-1, 1]; latents (N, latent_channels, H / patch, W / patch).
    """

    @register_to_config
    def __init__(
        self, latent_channels: int = 6, patch: int = 4, channels: int = 96, blocks: int = 2
    ) -> None:
        super().__init__()
        pixels = 3 * patch**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(patch),
            nn.Conv2d(pixels, channels, 3, padding=1),
            *(ResidualBlock(channels) for _ in range(blocks)),
            nn.Conv2d(channels, latent_channels, 1),
            nn.BatchNorm2d(latent_channels, affine=False),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, channels, 3, padding=1),
            *(ResidualBlock(channels) for _ in range(blocks)),
            nn.GELU(),
            nn.Conv2d(channels, pixels, 3, padding=1),
            nn.PixelShuffle(patch),
        )

    def encode(self, pictures: Tensor) -> AutoencoderTinyOutput:
        """Maps pictures to latents."""
        return AutoencoderTinyOutput(latents=self.encoder(pictures))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Maps latents to pictures."""
        return DecoderOutput(sample=self.decoder(latents))


class ResidualBlock(nn.Module):
    """x + B gelu(A x), A a 3 x 3 convolution and B a 1 x 1, which starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.gelu(self.spatial(x)))


@dataclass(frozen=True)
class AutoencoderSettings:
    """How an autoencoder is trained.

    Attributes:
        steps: optimiser steps.
        batch_size: pictures a step.
        learning_rate: peak, for Muon on the weights, of a linear warm-up and decay.
        noise: standard deviation of what is added to latents, which have unit variance, so that
            the decoder forgives the small errors of generated ones.
        seed: seed of weights, batches and noise.
    """

    steps: int = 900
    batch_size: int = 32
    learning_rate: float = 0.03
    noise: float = 0.025
    seed: int = 0


def train_autoencoder(
    pixels: np.ndarray,
    latent_channels: int,
    settings: AutoencoderSettings,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> ConvAutoencoder:
    """Trains a `ConvAutoencoder` to reproduce pictures.

    Args:
        pixels: (N, H, W, 3), uint8.
        latent_channels: numbers per patch.
        on_step: called with (steps done, squared error) after each step.

    Returns:
        The autoencoder, in evaluation mode.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = ConvAutoencoder(latent_channels).train()
        model.to(memory_format=torch.channels_last)
        weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
        optimizers = [
            Muon(weights, settings.learning_rate),
            torch.optim.AdamW(biases, settings.learning_rate / 10, weight_decay=0),
        ]
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: min((step + 1) / WARMUP, 1 - step / settings.steps)
            )
            for optimizer in optimizers
        ]
        for step in range(1, settings.steps + 1):
            chosen = torch.randint(len(pixels), (settings.batch_size,)).numpy()
            pictures = to_unit_range(pixels[chosen])
            latents = model.encode(pictures).latents
            noisy = latents + settings.noise * torch.randn_like(latents)
            loss = F.mse_loss(model.decode(noisy).sample, pictures)
            if not loss.isfinite():
                raise FloatingPointError(f"autoencoder: the loss is {loss.item()} at step {step}")
            model.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            on_step(step, loss.item())
    return model.eval()


def to_unit_range(pixels: np.ndarray) -> Tensor:
    """(N, H, W, 3) bytes to (N, 3, H, W) floats in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(pictures: Tensor) -> np.ndarray:
    """(N, 3, H, W) floats in [-1, 1] to (N, H, W, 3) bytes; what lies outside is clipped."""
    scaled = ((pictures.float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
