"""Which captioned images a run uses, and what is held out of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from invcap.checks import check_at_least
from invcap.data import load_examples, log_skipped
from invcap.data.example import Examples
from invcap.data.split import check_share

logger = logging.getLogger(__name__)
MOST_PIXELS = 2**26


@dataclass(frozen=True)
class DataSettings:
    """Which images and captions, and what is held out of them.

    Attributes:
        data: see `invcap.data.load_examples`.
        options: of the source, such as {"wordings": 3}.
        size: (height, width) of the images, pixels.
        held_out: share of the groups of images that training does not see.
        augment: moved and tinted copies of each image; 0 for none.
        seed: of the split and of the copies.
    """

    data: str = "shapes"
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (32, 32)
    held_out: float = 0.1
    augment: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        height, width = self.size
        if min(self.size) < 1 or height * width > MOST_PIXELS:
            raise ValueError(
                f"size must be from 1x1 to {MOST_PIXELS:,} pixels in all, got {height}x{width}"
            )
        check_share(self.held_out)
        check_at_least(self, 0, "augment")


def load_data(settings: DataSettings) -> Examples:
    """Reads the listing of the data; what cannot be used is logged. No image is decoded."""
    loaded = load_examples(settings.data, **settings.options)
    log_skipped(loaded.skipped, logger)
    return loaded
