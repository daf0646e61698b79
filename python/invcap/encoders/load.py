"""Image encoders of every kind from their folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from invcap.encoders.features import FeatureImages
from invcap.encoders.images import AutoencoderImages
from invcap.encoders.interface import ENCODER_FILE, ImageEncoder
from invcap.encoders.unclip import UnclipImages
from invcap.files import read_json

KINDS: dict[str, Callable[[Path], ImageEncoder]] = {
    "autoencoder": AutoencoderImages.load,
    "features": FeatureImages.load,
    "unclip": UnclipImages.load,
}


def load_image_encoder(folder: Path) -> ImageEncoder:
    """Reads what an image encoder's `save` wrote.

    Raises:
        ValueError: a file is missing, broken or of an unknown kind; the message names it.
    """
    kind = read_json(folder / ENCODER_FILE).get("kind")
    if kind not in KINDS:
        raise ValueError(
            f"{folder / ENCODER_FILE}: expected one of the kinds {', '.join(KINDS)}, got {kind!r}"
        )
    return KINDS[kind](folder)
