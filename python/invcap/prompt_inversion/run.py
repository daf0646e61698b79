"""`invcap invert`: picture files in, a folder for each of them out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from invcap.data import fit_picture
from invcap.data.pictures import open_picture
from invcap.prompt_inversion.inversion import InversionSettings
from invcap.prompt_inversion.pipeline import PromptInversionPipeline
from invcap.prompt_inversion.report import write_inversion
from invcap.prompt_inversion.vectors import Over

CHECKPOINT = "checkpoint.safetensors"


def invert(
    pipeline: PromptInversionPipeline,
    pictures: Sequence[Path],
    output: Path,
    settings: InversionSettings,
    start: str,
    over: Over,
    seed: int,
    size: tuple[int, int] | None,
    guidance_scale: float,
    resume: bool,
) -> list[dict[str, Any]]:
    """Inverts pictures in one batch and writes a folder for each; see `PromptInversionPipeline`.

    Returns:
        For each picture: its file, the embedding's file, the held-out bound with its standard
        error, the gradient steps and UNet evaluations it took, and its share of the seconds.

    Raises:
        ValueError: two pictures have one name, or `output` holds a checkpoint and `resume` is
            false.
    """
    folders = [output / picture.stem for picture in pictures]
    if len(set(folders)) < len(folders):
        raise ValueError(f"pictures must differ in name, got {', '.join(map(str, pictures))}")
    checkpoint = output / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise ValueError(f"{output}: holds an inversion; resume it, or give another folder")
    size = size or pipeline.size
    targets = [Image.fromarray(fit_picture(open_picture(path), size)) for path in pictures]
    started = time.perf_counter()
    found = pipeline.invert(
        targets,
        start,
        settings,
        over,
        seeds=seed,
        size=size,
        guidance_scale=guidance_scale,
        checkpoint=checkpoint,
    )
    seconds = (time.perf_counter() - started) / len(pictures)
    result = []
    for index, (picture, folder, target) in enumerate(zip(pictures, folders, targets, strict=True)):
        embedding = write_inversion(folder, pipeline, target, found, index, seed + index)
        result.append(
            {
                "picture": str(picture),
                "embedding": str(embedding),
                "log_likelihood": found.log_likelihood[index].item(),
                "standard_error": found.standard_error[index].item(),
                "steps": found.steps[index],
                "unet_evaluations": found.unet_evaluations[index],
                "seconds": seconds,
            }
        )
    return result
