"""From images to a `FeatureImages`: features once, their components, a trained decoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from invcap.data.encode import EncodedImages, encode_images
from invcap.data.example import Examples
from invcap.data.settings import DataSettings
from invcap.data.shards import ChosenRows
from invcap.encoders.backbones import load_backbone
from invcap.encoders.components import principal_components
from invcap.encoders.feature_autoencoder import FeatureSettings, train_feature_autoencoder
from invcap.encoders.features import FeatureImages, Preparation
from invcap.encoders.interface import ENCODER_FILE
from invcap.hashing import digest

TRAINING_IMAGES = 25_000
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Features:
    """The features of prepared rows, (N, f)."""

    rows: ChosenRows
    preparation: Preparation

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Tensor, /) -> Tensor:
        return self.preparation.unpack(self.rows[chosen])[0]


def make_feature_images(
    source: Examples,
    data: DataSettings,
    name: str,
    settings: FeatureSettings,
    cache: Path,
    accelerator: Accelerator,
) -> FeatureImages:
    """Trains a `FeatureImages` on the training images, or finds the one trained on them before.

    Args:
        name: of the backbone; see `invcap.encoders.backbones.load_backbone`.

    Raises:
        ValueError: there is no such backbone.
    """
    backbone = load_backbone(name).to(accelerator.device)
    preparation = Preparation(backbone, settings.side)
    prepared = prepare_images(source, data, preparation, cache, accelerator)
    identity = {**asdict(settings), "images": prepared.identity}
    folder = cache / f"features-{digest(str(identity))}"
    if not (folder / ENCODER_FILE).exists():
        rows = ChosenRows(prepared.rows(), training_rows(prepared))
        path = folder / CHECKPOINT
        autoencoder = train_feature_autoencoder(
            principal_components(Features(rows, preparation), settings.components),
            len(rows),
            lambda chosen: preparation.unpack(rows[chosen]),
            settings,
            path,
            identity,
            accelerator,
        )
        if accelerator.is_main_process:
            FeatureImages(backbone, autoencoder, data.size).save(folder)
            path.unlink()
    accelerator.wait_for_everyone()
    return FeatureImages.load(folder)


def prepare_images(
    source: Examples,
    data: DataSettings,
    preparation: Preparation,
    cache: Path,
    accelerator: Accelerator,
) -> EncodedImages:
    """The inputs of all latents, on disk; those of an earlier run are reused."""
    return encode_images(
        source,
        data,
        preparation,
        preparation.width,
        preparation.fingerprint,
        cache,
        accelerator,
        "uint8",
        "features",
    )


def training_rows(images: EncodedImages) -> Tensor:
    """Numbers of the rows to train on, (K,) int64: at most 25,000, spread over all of them."""
    training = torch.from_numpy(np.flatnonzero(~images.held_out))
    if not len(training):
        raise ValueError("held_out: no training example; expected more groups, or another share")
    variants = torch.arange(images.variants)
    rows = (training[:, None] * images.variants + variants).flatten()
    return rows[:: -(-len(rows) // TRAINING_IMAGES)]
