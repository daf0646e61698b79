"""Image encoder on the features of a frozen backbone, with a decoder that draws them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invcap.encoders.autoencoder import to_bytes, to_unit_range
from invcap.encoders.backbones import Backbone, load_saved_backbone, resized, scaled_to
from invcap.encoders.feature_autoencoder import FeatureAutoencoder
from invcap.encoders.interface import ENCODER_FILE
from invcap.files import read_json, write_json
from invcap.hashing import digest, fingerprint

BATCH = 256
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Preparation:
    """Inputs of latents: a backbone's features, and the images at the size that is drawn.

    The backbone takes most of the time, so its features are computed once, for the principal
    components, the training of the decoder and the latents.
    """

    backbone: Backbone
    side: int

    @property
    def width(self) -> int:
        """Bytes that are kept of an image."""
        return FLOAT * self.backbone.features + 3 * self.side**2

    @property
    def fingerprint(self) -> str:
        """Changes whenever the kept bytes of an image may."""
        return digest(self.backbone.fingerprint, str(self.side))

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Maps images, (N, H, W, 3) bytes, to rows, (N, width) bytes."""
        features = self.backbone.encode(pixels).cpu().numpy()
        small = resized(torch.from_numpy(pixels), (self.side, self.side)).round().to(torch.uint8)
        drawn = small.permute(0, 2, 3, 1).flatten(1).numpy()
        return np.concatenate([features.view(np.uint8), drawn], 1)

    def unpack(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows as features, (N, f) float32, and images, (N, side, side, 3) bytes."""
        pixels = 3 * self.side**2
        features = rows[:, :-pixels].contiguous().view(torch.float32)
        return features, rows[:, -pixels:].reshape(-1, self.side, self.side, 3)


class FeatureImages:
    """A frozen backbone with a trained `FeatureAutoencoder`.

    Args:
        backbone: gives the features.
        autoencoder: makes latents of features and images, and draws.
        size: (height, width) of the images that it was trained on.
    """

    def __init__(
        self, backbone: Backbone, autoencoder: FeatureAutoencoder, size: tuple[int, int]
    ) -> None:
        self.backbone = backbone
        self.preparation = Preparation(backbone, autoencoder.config.side)
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.size = size

    @property
    def features(self) -> int:
        """Numbers of a latent."""
        return self.autoencoder.config.components + self.autoencoder.config.learned

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all weights."""
        return digest(self.backbone.fingerprint, fingerprint(self.autoencoder))

    def to(self, device: torch.device | str) -> FeatureImages:
        """Moves the networks to a device, in place."""
        self.backbone.to(device)
        self.autoencoder.to(device)
        return self

    def encode(self, pixels: np.ndarray) -> Tensor:
        """Maps images, (N, H, W, 3) bytes of any size, to latents, on the encoder's device."""
        return self.encode_prepared(self.preparation(pixels))

    @torch.no_grad()
    def encode_prepared(self, rows: np.ndarray) -> Tensor:
        """Maps rows of `preparation` to latents, (N, features), on the encoder's device."""
        device = self.autoencoder.device
        latents = []
        for part in torch.from_numpy(rows).split(BATCH):
            features, pixels = self.preparation.unpack(part)
            images = to_unit_range(pixels.to(device))
            latents.append(self.autoencoder.encode(features.to(device), images))
        return torch.cat(latents)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Maps latents, (N, features), to images, (N, side, side, 3) bytes."""
        batches = latents.to(self.autoencoder.device).split(BATCH)
        return np.concatenate([to_bytes(self.autoencoder.decode(batch)) for batch in batches])

    def project(self, latents: Tensor) -> Tensor:
        """Maps latents, (N, features), to those of what `decode` draws, with a gradient."""
        images = self.autoencoder.decode(latents.to(self.autoencoder.device)).clamp(-1, 1)
        features = self.backbone.see(scaled_to((images + 1) * 127.5, self.backbone.size))
        return self.autoencoder.encode(features, images)

    @property
    def refine_steps(self) -> int:
        """0: a step through the backbone takes a fifth of a second an image on a CPU core."""
        return 0

    def save(self, folder: Path) -> None:
        """Writes the networks, as safetensors, and the size of images into a folder."""
        self.backbone.save(folder / "backbone")
        self.autoencoder.register_to_config(_name_or_path="")
        self.autoencoder.save_pretrained(folder / "autoencoder")
        write_json(folder / ENCODER_FILE, {"kind": "features", "size": list(self.size)})

    @classmethod
    def load(cls, folder: Path) -> FeatureImages:
        """Reads what `save` wrote."""
        size = tuple(read_json(folder / ENCODER_FILE)["size"])
        autoencoder = FeatureAutoencoder.from_pretrained(
            folder / "autoencoder", low_cpu_mem_usage=False
        )
        return cls(load_saved_backbone(folder / "backbone"), autoencoder, size)
