"""Images drawn from sentences, as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from invcap.captioning.model import InvertibleCaptioner
from invcap.figures import write_image


def write_drawings(
    captioner: InvertibleCaptioner,
    texts: Sequence[str],
    output: Path,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    refine_steps: int | None = None,
) -> list[dict[str, str]]:
    """Draws images for each sentence into a folder: `0000.png`, or `0000-0.png` if several.

    Args:
        texts, samples, temperature, refine_steps: see `InvertibleCaptioner.generate`.
        seed: seed of the random samples.

    Returns:
        The sentence and the file of each image, those of a sentence in a row.

    Raises:
        ValueError: an argument cannot be used; nothing has been written then.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = captioner.generate(texts, temperature, generator, samples, refine_steps)
    result = []
    for index, picture in enumerate(drawn):
        text, sample = divmod(index, samples)
        path = output / (f"{text:04}-{sample}.png" if samples > 1 else f"{text:04}.png")
        write_image(path, picture)
        result.append({"text": texts[text], "picture": str(path)})
    return result
