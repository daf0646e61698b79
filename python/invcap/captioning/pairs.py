"""Captioned pictures as tensors: latents, embeddings, and who belongs to whom."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invcap.data import Example
from invcap.encoders.autoencoder import AutoencoderSettings, train_autoencoder
from invcap.encoders.images import Autoencoder, PictureEncoder, load_autoencoder
from invcap.encoders.sentences import SentenceEncoder
from invcap.files import read_tensors, write_tensors
from invcap.hashing import digest, fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """N pictures and M different captions of n numbers each, as the frozen encoders give them.

    Attributes:
        names: what reports call the pictures.
        pixels: (N, H, W, 3), uint8.
        latents: (N, n) float32.
        captions: M different sentences.
        embeddings: (M, n) float32.
        picture, caption: (P,) int64; pair p is picture[p] with caption[p], sorted by picture.
    """

    names: list[str]
    pixels: np.ndarray
    latents: Tensor
    captions: list[str]
    embeddings: Tensor
    picture: Tensor
    caption: Tensor

    def subset(self, pictures: Sequence[int]) -> Pairs:
        """Returns the pairs of some pictures; captions that no picture has any more are dropped."""
        chosen = torch.as_tensor(pictures, dtype=torch.int64)
        new_picture = torch.full((len(self.names),), -1).index_put(
            (chosen,), torch.arange(len(chosen))
        )
        kept = (new_picture[self.picture] >= 0).nonzero().flatten()
        kept = kept[new_picture[self.picture[kept]].argsort(stable=True)]
        captions, caption = self.caption[kept].unique(return_inverse=True)
        return Pairs(
            names=[self.names[i] for i in pictures],
            pixels=self.pixels[chosen.numpy()],
            latents=self.latents[chosen],
            captions=[self.captions[i] for i in captions],
            embeddings=self.embeddings[captions],
            picture=new_picture[self.picture[kept]],
            caption=caption,
        )

    def fingerprint(self) -> str:
        """A hash of all that training sees."""
        return digest(self.latents, self.embeddings, self.picture, self.caption)


def encode_pairs(
    examples: Sequence[Example],
    pixels: np.ndarray,
    pictures: PictureEncoder,
    sentences: SentenceEncoder,
    cache: Path,
) -> Pairs:
    """Encodes pictures, (N, H, W, 3) bytes, and the captions of their examples."""
    captions = list(dict.fromkeys(caption for e in examples for caption in e.captions))
    index = {caption: i for i, caption in enumerate(captions)}
    return Pairs(
        names=[example.name for example in examples],
        pixels=pixels,
        latents=cached_latents(pictures, pixels, cache),
        captions=captions,
        embeddings=_cached(
            cache / f"embeddings-{digest(fingerprint(sentences.model), *captions)}.safetensors",
            lambda: sentences.encode(captions, progress=True),
        ),
        picture=torch.tensor([i for i, e in enumerate(examples) for _ in e.captions]),
        caption=torch.tensor([index[caption] for e in examples for caption in e.captions]),
    )


def cached_latents(pictures: PictureEncoder, pixels: np.ndarray, cache: Path) -> Tensor:
    """Encodes pictures, (N, H, W, 3) bytes, or finds their latents, (N, n), encoded before."""
    key = digest(fingerprint(pictures.autoencoder), pixels)
    return _cached(cache / f"latents-{key}.safetensors", lambda: pictures.encode(pixels))


def cached_autoencoder(
    pixels: np.ndarray,
    latent_channels: int,
    settings: AutoencoderSettings,
    cache: Path,
    on_step: Callable[[int, float], None],
) -> Autoencoder:
    """Trains a `ConvAutoencoder` on pictures, or finds the one trained on them before."""
    folder = cache / f"autoencoder-{digest(str(settings), str(latent_channels), pixels)}"
    if not (folder / "config.json").exists():
        trained = train_autoencoder(pixels, latent_channels, settings, on_step)
        save_autoencoder(trained, folder)
    return load_autoencoder(str(folder))


def save_autoencoder(autoencoder: Autoencoder, folder: Path) -> None:
    """Writes an autoencoder as diffusers does, config.json last."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    autoencoder.save_pretrained(temporary)
    folder.mkdir(exist_ok=True)
    for file in sorted(temporary.iterdir(), key=lambda path: path.suffix == ".json"):
        file.replace(folder / file.name)
    temporary.rmdir()


def _cached(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    if path.exists():
        try:
            return read_tensors(path)[0]["values"]
        except ValueError as error:
            logger.warning("%s; computing it again", error)
    values = compute()
    write_tensors(path, {"values": values})
    return values
