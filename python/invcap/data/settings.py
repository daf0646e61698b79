"""Which captioned pictures a run uses, and what is held out of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from invcap.data import Example, decode_pictures, load_examples, log_skipped, split_by_group

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSettings:
    """Which pictures and captions, and what is held out of them.

    Attributes:
        data: see `invcap.data.load_examples`.
        options: of the source, such as {"wordings": 3}.
        size: (height, width) of the pictures, pixels.
        held_out: share of the groups of pictures that training does not see.
        augment: moved and tinted copies of each training picture; 0 for none.
        seed: of the split and of the copies.
    """

    data: str = "shapes"
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (32, 32)
    held_out: float = 0.1
    augment: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """Examples with their decoded pictures, (N, H, W, 3), and who is on which side."""

    examples: list[Example]
    pixels: np.ndarray
    train: list[int]
    held_out: list[int]


def load_split(settings: DataSettings) -> Split:
    """Reads, decodes and splits the data; what cannot be used is logged."""
    loaded = load_examples(settings.data, **settings.options)
    log_skipped(loaded.skipped, logger)
    pixels, examples, broken = decode_pictures(loaded.examples, settings.size, settings.data)
    log_skipped(broken, logger)
    return Split(examples, pixels, *split_by_group(examples, settings.held_out, settings.seed))
