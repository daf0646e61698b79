"""Latents of frozen features and a small convolutional encoder, and a decoder that draws both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from invcap.checks import check_at_least, check_finite, check_fraction
from invcap.encoders.autoencoder import LatentNorm, ResidualBlock
from invcap.encoders.components import Components
from invcap.training.muon import Muon
from invcap.training.trainer import Batch, TrainerSettings, train

GRID = 8
SCALES = 3


class FeatureAutoencoder(ModelMixin, ConfigMixin):
    """m principal components of a backbone's features and u numbers of an image, and back.

    Latents have unit variance: the components are frozen and whitened, the other u, which learn
    what the features lack (colours, layout), are batch-normalized (statistics frozen after
    training).

    Shapes: features (N, features), images (N, 3, side, side) in [-1, 1], latents (N, m + u).
    """

    mean: Tensor
    directions: Tensor

    @register_to_config
    def __init__(
        self, features: int, components: int, learned: int, side: int = 64, channels: int = 96
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("directions", torch.zeros(features, components))
        self.encoder = _encoder(learned, side, channels) if learned else None
        self.decoder = _decoder(components + learned, side, channels)

    def encode(self, features: Tensor, images: Tensor) -> Tensor:
        """Maps a backbone's features and the images themselves to latents."""
        components = (features - self.mean) @ self.directions
        if self.encoder is None:
            return components
        return torch.cat([components, self.encoder(images).flatten(1)], 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Maps latents to images."""
        return self.decoder(latents)


def _encoder(learned: int, side: int, channels: int) -> nn.Module:
    patch = side // GRID
    return nn.Sequential(
        nn.PixelUnshuffle(patch),
        nn.Conv2d(3 * patch**2, channels, 3, padding=1),
        ResidualBlock(channels),
        ResidualBlock(channels),
        nn.Conv2d(channels, learned, GRID),
        LatentNorm(learned, affine=False),
    )


def _decoder(latent: int, side: int, channels: int) -> nn.Module:
    """From a grid of 8 x 8 to half the side, where each place draws 2 x 2 pixels."""
    layers: list[nn.Module] = [
        nn.Linear(latent, channels * GRID**2),
        nn.Unflatten(1, (channels, GRID, GRID)),
        ResidualBlock(channels),
        ResidualBlock(channels),
    ]
    grid = GRID
    while 2 * grid < side:
        narrower = max(16, channels // 2)
        layers += [
            nn.Conv2d(channels, 4 * narrower, 3, padding=1),
            nn.PixelShuffle(2),
            ResidualBlock(narrower),
        ]
        grid, channels = 2 * grid, narrower
    return nn.Sequential(
        *layers, nn.GELU(), nn.Conv2d(channels, 12, 3, padding=1), nn.PixelShuffle(2)
    )


@dataclass(frozen=True)
class FeatureSettings:
    """Latents of `features`, and how their decoder is trained.

    Attributes:
        components: at most so many principal components of the backbone's features.
        learned: numbers of a small convolutional encoder beside them; 0 for none.
        side: of the square images that the decoder draws, pixels: a power of two, at least 16.
        steps: optimizer steps.
        batch_size: images a step.
        learning_rate: peak, for Muon on the weights, of a linear warm-up and decay.
        noise: standard deviation of what is added to the learned numbers in training.
        component_noise: the same for the components: by them the decoder would otherwise know
            each training image again, and draw others worse.
        dropped: share of the images that are drawn from their components alone, the learned
            numbers at zero, their mean: a sentence says little about those.
        seed: of weights, batches and noise.
    """

    components: int = 384
    learned: int = 64
    side: int = 64
    steps: int = 1200
    batch_size: int = 32
    learning_rate: float = 0.02
    noise: float = 0.1
    component_noise: float = 0.5
    dropped: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "components", "steps", "batch_size", of="features ")
        check_at_least(self, 0, "learned")
        if self.side < 2 * GRID or self.side & (self.side - 1):
            raise ValueError(f"side must be a power of two, at least {2 * GRID}, got {self.side}")
        check_finite(self, "learning_rate", above_zero=True)
        check_finite(self, "noise", "component_noise", above_zero=False)
        check_fraction(self, "dropped", one=False)


def train_feature_autoencoder(
    components: Components,
    examples: int,
    look_up: Callable[[Tensor], tuple[Tensor, Tensor]],
    settings: FeatureSettings,
    path: Path,
    identity: dict[str, Any],
    accelerator: Accelerator,
) -> FeatureAutoencoder:
    """Trains a `FeatureAutoencoder`, from the checkpoint at `path` if it is there.

    Args:
        components: of the features; they stay as they are.
        examples: N, how many images there are to train on.
        look_up: numbers of images, (K,) int64, to their features, (K, f), and the images
            themselves, (K, side, side, 3) bytes.
        identity: what the checkpoint must have been made with.

    Returns:
        The autoencoder, in evaluation mode.

    Raises:
        TrainingDivergedError: the loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = FeatureAutoencoder(*components.directions.shape, settings.learned, settings.side)
    model.to(memory_format=torch.channels_last)
    model.mean.copy_(components.mean)
    model.directions.copy_(components.directions)
    number = components.directions.shape[1]
    deviations = torch.full((number + settings.learned,), settings.noise)
    deviations[:number] = settings.component_noise

    def draw(generator: torch.Generator, part: slice) -> Batch:
        chosen = torch.randint(examples, (settings.batch_size,), generator=generator)
        noise = torch.randn(settings.batch_size, len(deviations), generator=generator)
        kept = torch.ones_like(noise)
        kept[torch.rand(len(kept), generator=generator) < settings.dropped, number:] = 0
        features, pixels = look_up(chosen[part])
        return {
            "features": features,
            "pixels": pixels,
            "noise": deviations * noise[part],
            "kept": kept[part],
        }

    trainer = TrainerSettings(
        settings.steps, settings.batch_size, seed=settings.seed, name="decoder of features"
    )
    return train(
        model,
        drawing_loss,
        draw,
        make_optimizers(model, settings),
        trainer,
        path,
        identity,
        accelerator,
    ).module


def make_optimizers(
    model: FeatureAutoencoder, settings: FeatureSettings
) -> list[torch.optim.Optimizer]:
    """Muon on convolutions and AdamW on the rest: the linear layer is too large for Muon."""
    convolutions = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    rest = [parameter for parameter in model.parameters() if parameter.ndim < 4]
    return [
        Muon(convolutions, settings.learning_rate),
        torch.optim.AdamW(rest, settings.learning_rate / 10, weight_decay=0),
    ]


def drawing_loss(model: FeatureAutoencoder, batch: Batch) -> dict[str, Tensor]:
    """Mean absolute error of images drawn from latents with noise, at three scales, and of edges.

    Coarse scales weigh layout and colour; differences of neighbouring pixels weigh edges.
    """
    images = batch["pixels"].permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = model.encode(batch["features"], images) + batch["noise"]
    drawn = model.decode(latents * batch["kept"])
    error = torch.zeros((), device=images.device)
    for _ in range(SCALES):
        error = error + F.l1_loss(drawn, images) / SCALES
        error = error + sum(F.l1_loss(drawn.diff(dim=d), images.diff(dim=d)) for d in (2, 3)) / (
            2 * SCALES
        )
        drawn, images = F.avg_pool2d(drawn, 2), F.avg_pool2d(images, 2)
    return {"error": error}
