"""The frozen picture encoder: pictures to latents and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from invcap.encoders.autoencoder import ConvAutoencoder, to_bytes, to_unit_range
from invcap.encoders.sentences import SentenceEncoder
from invcap.files import read_json

Autoencoder = ConvAutoencoder | AutoencoderKL | AutoencoderTiny
AUTOENCODERS = {kind.__name__: kind for kind in (ConvAutoencoder, AutoencoderKL, AutoencoderTiny)}
BATCH = 256


class PictureEncoder:
    """A frozen autoencoder at one size of picture.

    Args:
        autoencoder: a `ConvAutoencoder`, or diffusers' `AutoencoderKL` or `AutoencoderTiny`.
        size: (height, width) of the pictures, pixels.
    """

    def __init__(self, autoencoder: Autoencoder, size: tuple[int, int]) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.size = size
        probe = torch.zeros(1, 3, *size, device=autoencoder.device)
        self.latent_shape: tuple[int, ...] = tuple(self._encode(probe).shape[1:])

    @property
    def features(self) -> int:
        """Numbers of a latent."""
        return int(np.prod(self.latent_shape))

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> Tensor:
        """Maps pictures, (N, H, W, 3) bytes, to latents, (N, features) float32."""
        batches = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
        device = self.autoencoder.device
        return torch.cat([self._encode(to_unit_range(b).to(device)).flatten(1) for b in batches])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Maps latents, (N, features), to pictures, (N, H, W, 3) bytes."""
        shaped = latents.reshape(-1, *self.latent_shape)
        return np.concatenate(
            [to_bytes(self.autoencoder.decode(batch).sample) for batch in shaped.split(BATCH)]
        )

    def _encode(self, pictures: Tensor) -> Tensor:
        encoded = self.autoencoder.encode(pictures)
        return encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()


def load_autoencoder(name: str) -> Autoencoder:
    """Loads an autoencoder of diffusers or of our own from a folder or, diffusers' only, the hub.

    Raises:
        ValueError: the folder holds no autoencoder of a known kind, or there is no such model.
    """
    folder = Path(name)
    if folder.is_dir():
        kind = read_json(folder / "config.json").get("_class_name")
        if kind not in AUTOENCODERS:
            raise ValueError(f"{name}: expected one of {', '.join(AUTOENCODERS)}, got {kind}")
        return AUTOENCODERS[kind].from_pretrained(name, low_cpu_mem_usage=False)
    try:
        return AutoencoderKL.from_pretrained(name, low_cpu_mem_usage=False)
    except OSError as error:
        raise ValueError(f"{name}: neither a folder nor a model that loads: {error}") from None


def check_features(pictures: PictureEncoder, sentences: SentenceEncoder) -> None:
    """Raises ValueError, naming sizes that would fit, unless latent and embedding agree."""
    if pictures.features == sentences.features:
        return
    channels, latent_height, latent_width = pictures.latent_shape
    height, width = pictures.size
    sizes = fitting_sizes(
        sentences.features, channels, height // latent_height, width // latent_width
    )
    raise ValueError(
        f"pictures of {height} x {width} give latents of {pictures.features} numbers, but the "
        f"sentence encoder {sentences.name} gives {sentences.features}; "
        + (
            f"sizes that fit, height x width: {', '.join(f'{h}x{w}' for h, w in sizes)}"
            if sizes
            else f"no size fits {channels} latent channels"
        )
    )


def fitting_sizes(
    features: int, channels: int, patch_height: int, patch_width: int
) -> list[tuple[int, int]]:
    """Sizes (height, width) whose latents have `features` numbers, the squarest first."""
    cells, rest = divmod(features, channels)
    if rest:
        return []
    rows = [row for row in range(1, cells + 1) if cells % row == 0]
    rows.sort(key=lambda row: (abs(row - cells // row), row))
    return [(patch_height * row, patch_width * (cells // row)) for row in rows[:6]]
