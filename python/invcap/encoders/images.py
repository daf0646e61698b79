"""A frozen autoencoder as image encoder."""

from __future__ import annotations

import tempfile
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from invcap.encoders.autoencoder import PATCH, ConvAutoencoder, to_bytes, to_unit_range
from invcap.encoders.interface import ENCODER_FILE
from invcap.files import read_json, replacing, write_json
from invcap.hashing import fingerprint

Autoencoder: TypeAlias = ConvAutoencoder | AutoencoderKL | AutoencoderTiny
AUTOENCODERS = {kind.__name__: kind for kind in (ConvAutoencoder, AutoencoderKL, AutoencoderTiny)}
PIXELS_AT_ONCE = 2**18  # 256 images of 32 x 32
REFINE_STEPS = 20


class AutoencoderImages:
    """A frozen autoencoder at one size of image.

    Args:
        autoencoder: a `ConvAutoencoder`, or diffusers' `AutoencoderKL` or `AutoencoderTiny`.
        size: (height, width) of the images, pixels.
    """

    def __init__(self, autoencoder: Autoencoder, size: tuple[int, int]) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.size = size
        probe = torch.zeros(1, 3, *size, device=autoencoder.device)
        self.latent_shape: tuple[int, ...] = tuple(self._encode(probe).shape[1:])

    @property
    def features(self) -> int:
        """Numbers of a latent."""
        return prod(self.latent_shape)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights; see `invcap.hashing.fingerprint`."""
        return fingerprint(self.autoencoder)

    def to(self, device: torch.device | str) -> AutoencoderImages:
        """Moves the autoencoder to a device, in place."""
        self.autoencoder.to(device)
        return self

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> Tensor:
        """Maps images, (N, H, W, 3) bytes, to latents, (N, features), on the encoder's device."""
        batches = torch.from_numpy(pixels).split(self._at_once)
        device = self.autoencoder.device
        return torch.cat([self._encode(to_unit_range(b.to(device))).flatten(1) for b in batches])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Maps latents, (N, features), to images, (N, H, W, 3) bytes."""
        shaped = latents.to(self.autoencoder.device).reshape(-1, *self.latent_shape)
        return np.concatenate(
            [
                to_bytes(self.autoencoder.decode(batch).sample)
                for batch in shaped.split(self._at_once)
            ]
        )

    def project(self, latents: Tensor) -> Tensor:
        """Maps latents, (N, features), to those of what `decode` draws, with a gradient."""
        shaped = latents.to(self.autoencoder.device).reshape(-1, *self.latent_shape)
        return self._encode(self.autoencoder.decode(shaped).sample.clamp(-1, 1)).flatten(1)

    @property
    def refine_steps(self) -> int:
        """20 for the small autoencoder, 0 for a large one, which takes seconds a step."""
        return REFINE_STEPS if isinstance(self.autoencoder, ConvAutoencoder) else 0

    def save(self, folder: Path) -> None:
        """Writes the autoencoder and its size of image into a folder."""
        save_autoencoder(self.autoencoder, folder)
        write_json(folder / ENCODER_FILE, {"kind": "autoencoder", "size": list(self.size)})

    @classmethod
    def load(cls, folder: Path) -> AutoencoderImages:
        """Reads what `save` wrote."""
        return cls(load_autoencoder(str(folder)), tuple(read_json(folder / ENCODER_FILE)["size"]))

    @property
    def _at_once(self) -> int:
        """Images, so that memory does not depend on their size."""
        return max(1, PIXELS_AT_ONCE // prod(self.size))

    def _encode(self, images: Tensor) -> Tensor:
        encoded = self.autoencoder.encode(images)
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return latents.float()


def conv_channels(size: tuple[int, int], features: int) -> int:
    """Channels of a `ConvAutoencoder`'s latents that come nearest to `features` numbers an image.

    Raises:
        ValueError: the size is not a multiple of the patch.
    """
    cells, rest = (size[0] // PATCH) * (size[1] // PATCH), size[0] % PATCH + size[1] % PATCH
    if rest or cells == 0:
        raise ValueError(
            f"size must be multiples of {PATCH}, such as 32x32, got {size[0]}x{size[1]}"
        )
    return max(1, round(features / cells))


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


def save_autoencoder(autoencoder: Autoencoder, folder: Path) -> None:
    """Writes an autoencoder as diffusers does, config.json last."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    autoencoder.register_to_config(_name_or_path="")
    with tempfile.TemporaryDirectory(".tmp", f".{folder.name}-", folder.parent) as temporary:
        autoencoder.save_pretrained(temporary)
        folder.mkdir(exist_ok=True)
        for file in sorted(Path(temporary).iterdir(), key=lambda path: path.suffix == ".json"):
            with replacing(folder / file.name) as unfinished:
                file.replace(unfinished)
