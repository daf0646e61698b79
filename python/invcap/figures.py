"""Figures and images as PNG files, and the running means that they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from invcap.files import replacing

WINDOW = 25


def running_mean(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbours among the finite values, and where (from 1) their centres are."""
    places = np.flatnonzero(np.isfinite(values)) + 1.0
    window = min(WINDOW, max(1, len(places)))
    kept = np.asarray(values)[places.astype(int) - 1]
    sums = (np.cumsum(np.concatenate([[0.0], part])) for part in (places, kept))
    centres, means = ((total[window:] - total[:-window]) / window for total in sums)
    return centres, means


def write_figure(path: Path, figure: Figure) -> None:
    """Writes a figure as PNG, replacing the file at once."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def write_image(path: Path, image: Image.Image) -> None:
    """Writes an image as PNG, replacing the file at once."""
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
