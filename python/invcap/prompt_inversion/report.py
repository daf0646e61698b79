"""An inversion's files: embedding, history, plot of the bounds, strip of images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from invcap.diffusion.conditioning import Conditioning, concatenate
from invcap.diffusion.model import FrozenTextToImage
from invcap.figures import running_mean, write_figure, write_image
from invcap.files import write_json
from invcap.prompt_inversion.embeddings import save_conditioning, save_token_vectors
from invcap.prompt_inversion.output import History, PromptInversionOutput

SHOWN_SIDE = 128
LABEL = 32


def write_inversion(
    folder: Path,
    model: FrozenTextToImage,
    targets: Sequence[Image.Image],
    output: PromptInversionOutput,
    index: int,
    seed: int,
    guidance_scale: float = 1.0,
    negative: bool = False,
) -> Path:
    """Writes the result of `invert` for one image, or for several together.

    Args:
        folder: where the files are written.
        model: the model.
        targets: the image, or all images that the prompt is for.
        output: the result.
        index: row of the output.
        seed: seed of the noise that the images of the strip are generated from.
        guidance_scale: guidance of these images.
        negative: the prompt is a negative one.

    Returns:
        The embedding's file.
    """
    history = output.histories[index]
    embedding = folder / "embedding.safetensors"
    one = slice(index, index + 1)
    shown = []
    if output.snapshots:
        ways = concatenate([snapshot[one] for snapshot in output.snapshots.values()])
        size = (targets[0].height, targets[0].width)
        shown = model.generate(ways, [seed] * len(ways), size, guidance_scale)
    write_figure(folder / "bounds.png", bounds_figure([history]))
    write_image(folder / "strip.png", strip([*shown, output.images[index], *targets], len(targets)))
    training = [bound if isfinite(bound) else None for bound in history.training]
    write_json(folder / "history.json", asdict(history) | {"training": training})
    if output.token_vectors is not None:
        vectors, path = output.token_vectors[index], folder / "tokens.safetensors"
        save_token_vectors(path, vectors, "<picture>", model.token_parts)
    save_conditioning(embedding, Conditioning(output.conditioning)[one], model, negative)
    return embedding


def bounds_figure(histories: Sequence[History]) -> Figure:
    """Training and held-out bounds over gradient steps, like the paper's Figure 4."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, history in enumerate(histories):
        label = number == 0
        axes.plot(*running_mean(history.training), "C0", lw=0.8, label="training, smoothed" * label)
        axes.plot(history.evaluated, history.held_out, "C1", label="held out" * label)
    axes.set(xlabel="gradient step", ylabel="bound, nats per latent number")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def scores_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Plots bounds with standard errors, the first row on top; see `LogLikelihood.rows`."""
    figure = Figure(figsize=(7, 1.2 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    axes.errorbar(
        [row["log_likelihood"] for row in rows],
        places,
        xerr=[row["standard_error"] for row in rows],
        fmt="o",
        capsize=4,
    )
    labels = [textwrap.fill(row["prompt"], LABEL, max_lines=2, placeholder="…") for row in rows]
    axes.set_yticks(places, labels, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="bound, nats per latent number (bar: one standard error)")
    axes.grid(alpha=0.3)
    return figure


def strip(images: Sequence[Image.Image], apart: int = 1) -> Image.Image:
    """Images in a row, with a gap before the last ones, like the paper's Figure 3."""
    width = round(SHOWN_SIDE * images[0].width / images[0].height)
    gap = SHOWN_SIDE // 16
    row = Image.new("RGB", ((width + gap) * len(images) + gap, SHOWN_SIDE), "white")
    for i, image in enumerate(images):
        left = i * (width + gap) + 2 * gap * (i >= len(images) - apart)
        row.paste(image.resize((width, SHOWN_SIDE), Image.Resampling.NEAREST), (left, 0))
    return row
