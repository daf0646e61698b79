"""What an inversion leaves in a folder: embedding, history, plot of bounds, strip of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from invcap.figures import running_mean, write_figure, write_image
from invcap.files import write_json
from invcap.prompt_inversion.embeddings import save_prompt_embeds, save_token_vectors
from invcap.prompt_inversion.inversion import History, PromptInversionOutput
from invcap.prompt_inversion.pipeline import PromptInversionPipeline

SHOWN_SIDE = 128


def write_inversion(
    folder: Path,
    pipeline: PromptInversionPipeline,
    target: Image.Image,
    output: PromptInversionOutput,
    index: int,
    seed: int,
) -> Path:
    """Writes what `invert` found for one picture.

    Args:
        target: the picture.
        index: which of the output's pictures it is.
        seed: of the noise that the pictures of the strip are generated from.

    Returns:
        The embedding's file.
    """
    history = output.histories[index]
    embedding = folder / "embedding.safetensors"
    ways = {step: hidden[index] for step, hidden in output.snapshots.items()}
    shown = pipeline.generate(
        list(ways.values()), [seed] * len(ways), (target.height, target.width)
    )
    write_figure(folder / "bounds.png", bounds_figure([history]))
    write_image(
        folder / "strip.png",
        strip([*shown, output.images[index], target]),
    )
    training = [bound if isfinite(bound) else None for bound in history.training]
    write_json(folder / "history.json", asdict(history) | {"training": training})
    if output.token_vectors is not None:
        save_token_vectors(folder / "tokens.safetensors", output.token_vectors[index], "<picture>")
    save_prompt_embeds(embedding, output.prompt_embeds[index], pipeline)
    return embedding


def bounds_figure(histories: Sequence[History]) -> Figure:
    """Training and held-out bounds over gradient steps, as the paper's Figure 4."""
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


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row, the last set apart, as the paper's Figure 3."""
    width = round(SHOWN_SIDE * pictures[0].width / pictures[0].height)
    gap = SHOWN_SIDE // 16
    row = Image.new("RGB", ((width + gap) * len(pictures) + gap, SHOWN_SIDE), "white")
    for i, picture in enumerate(pictures):
        left = i * (width + gap) + 2 * gap * (i == len(pictures) - 1)
        row.paste(picture.resize((width, SHOWN_SIDE), Image.Resampling.NEAREST), (left, 0))
    return row
