"""The interface of every frozen image encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

ENCODER_FILE = "encoder.json"


class ImageEncoder(Protocol):
    """Images to latents and back, by frozen networks."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images it wants, pixels."""
        ...

    @property
    def features(self) -> int:
        """Numbers of a latent."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever a latent or a drawn image may."""
        ...

    def to(self, device: torch.device | str) -> ImageEncoder:
        """Moves the networks to a device, in place."""
        ...

    def encode(self, pixels: np.ndarray) -> Tensor:
        """Maps images, (N, H, W, 3) bytes, to latents, (N, features), on the encoder's device.

        The images have the encoder's size, or are what `decode` drew.
        """
        ...

    def decode(self, latents: Tensor) -> np.ndarray:
        """Maps latents, (N, features), to images, (N, H, W, 3) bytes."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what `invcap.encoders.load.load_image_encoder` reads, `encoder.json` last."""
        ...


@runtime_checkable
class Differentiable(Protocol):
    """An image encoder through which a drawn image can be changed by gradients."""

    def project(self, latents: Tensor) -> Tensor:
        """Maps latents, (N, features), to those of what `decode` draws, with a gradient."""
        ...

    @property
    def refine_steps(self) -> int:
        """Default number of steps of `invcap.captioning.refine`, by what a step costs."""
        ...
