"""Image encoder whose decoder is Stable unCLIP: diffusion from CLIP image embeddings."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from invcap.encoders.autoencoder import to_bytes
from invcap.encoders.backbones import Backbone, expected_input
from invcap.encoders.interface import ENCODER_FILE
from invcap.files import read_json, write_json
from invcap.hashing import digest, fingerprint

STEPS = 20
SEED = 0
BATCH = 4
NETWORKS = ("image_normalizer", "text_encoder", "unet", "vae")


class ImageEmbedding(nn.Module):
    """The projected image embedding of a CLIPVisionModelWithProjection."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).image_embeds


class UnclipImages:
    """A frozen Stable unCLIP: latents are CLIP image embeddings, which its diffusion draws.

    An image is drawn in 20 steps with an empty prompt, always from the same noise.

    Args:
        pipeline: diffusers' StableUnCLIPImg2ImgPipeline.
        name: its folder or hub name.
        size: (height, width) of the images to encode.

    Source: diffusers, "Stable unCLIP"; Ramesh et al., "Hierarchical Text-Conditional Image
    Generation with CLIP Latents" (2022).
    """

    def __init__(self, pipeline: Any, name: str, size: tuple[int, int]) -> None:
        pipeline.set_progress_bar_config(disable=True)
        facts = {"kind": "unclip", **expected_input(pipeline.feature_extractor)}
        self.backbone = Backbone(ImageEmbedding(pipeline.image_encoder), facts)
        self.pipeline = pipeline
        self.name = name
        self.size = size

    @property
    def features(self) -> int:
        """Numbers of a latent."""
        return self.backbone.features

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all weights and of how images are drawn."""
        networks = [fingerprint(getattr(self.pipeline, name)) for name in NETWORKS]
        return digest(self.backbone.fingerprint, *networks, str((STEPS, SEED)))

    def to(self, device: torch.device | str) -> UnclipImages:
        """Moves the networks to a device, in place."""
        self.pipeline.to(device)
        self.backbone.to(device)
        return self

    def encode(self, pixels: np.ndarray) -> Tensor:
        """Maps images, (N, H, W, 3) bytes of any size, to latents, on the encoder's device."""
        return self.backbone.encode(pixels)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Maps latents, (N, features), to images, (N, H, W, 3) bytes, at the pipeline's size."""
        return np.concatenate([self._draw(batch) for batch in latents.split(BATCH)])

    def save(self, folder: Path) -> None:
        """Writes the name and the fingerprint of the pipeline, not its weights."""
        facts = {"name": self.name, "fingerprint": self.fingerprint, "size": list(self.size)}
        write_json(folder / ENCODER_FILE, {"kind": "unclip", **facts})

    @classmethod
    def load(cls, folder: Path) -> UnclipImages:
        """Reads what `save` wrote, and the pipeline by its name.

        Raises:
            ValueError: the pipeline is gone, or its weights have changed.
        """
        facts = read_json(folder / ENCODER_FILE)
        encoder = load_unclip(facts["name"], tuple(facts["size"]))
        if encoder.fingerprint != facts["fingerprint"]:
            raise ValueError(
                f"{folder / ENCODER_FILE}: {facts['name']} has other weights than when it was saved"
            )
        return encoder

    def _draw(self, latents: Tensor) -> np.ndarray:
        noises = [torch.Generator().manual_seed(SEED) for _ in latents]
        drawn = self.pipeline(
            prompt=[""] * len(latents),
            image_embeds=latents.to(self.pipeline.device, self.pipeline.image_encoder.dtype),
            num_inference_steps=STEPS,
            generator=noises,
            output_type="pt",
        ).images
        return to_bytes(drawn * 2 - 1)


def load_unclip(name: str, size: tuple[int, int]) -> UnclipImages:
    """Loads a Stable unCLIP from a folder or the hub.

    Args:
        size: (height, width) of the images to encode.

    Raises:
        ValueError: there is none.
    """
    from diffusers import StableUnCLIPImg2ImgPipeline

    if not name:
        raise ValueError("image_encoder unclip needs a folder or hub name: unclip:NAME")
    folder = Path(name)
    try:
        pipeline = StableUnCLIPImg2ImgPipeline.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"image_encoder unclip: {name} is neither a folder nor a Stable unCLIP that loads: "
            f"{error}"
        ) from None
    return UnclipImages(pipeline, str(folder.resolve()) if folder.is_dir() else name, size)
