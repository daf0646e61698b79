"""report.html: the figures, the curves and the pictures of a training run."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from invcap.captioning.model import InvertibleCaptioner, squared_distances
from invcap.captioning.pairs import Pairs
from invcap.files import replacing, write_text

SHOWN = 16
SMOOTHING = 25
ENLARGED = 128


def write_report(
    output: Path,
    model: InvertibleCaptioner,
    held_out: Pairs,
    metrics: dict[str, Any],
    history: dict[str, list[float]],
    settings: dict[str, Any],
    seed: int,
) -> None:
    """Writes report.html, one file with its pictures inside, and samples.png into `output`."""
    generator = torch.Generator().manual_seed(seed)
    shown = torch.randperm(len(held_out.names), generator=generator)[:SHOWN].tolist()
    rows = _rows(model, held_out.subset(shown), held_out)
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("invcap.captioning", "."), autoescape=True
    ).get_template("report.html")
    page = template.render(
        metrics=metrics,
        settings=settings,
        held_out=len(held_out.names),
        curves=_curves(history) if history else None,
        rows=rows,
    )
    write_text(output / "report.html", page)
    sheet = _sheet(rows[:8])
    with replacing(output / "samples.png") as temporary:
        sheet.savefig(temporary, format="png", dpi=110)
    plt.close(sheet)


@torch.no_grad()
def _rows(model: InvertibleCaptioner, shown: Pairs, held_out: Pairs) -> list[dict[str, Any]]:
    x = model.latents(shown.latents)
    first = torch.searchsorted(shown.picture, torch.arange(len(shown.names)))
    own = shown.caption[first]
    e = model.embeddings(shown.embeddings[own])
    found = model.network(x)
    all_embeddings = model.embeddings(held_out.embeddings)
    nearest = squared_distances(found, all_embeddings).argmin(1).tolist()

    def pictures(latents: torch.Tensor) -> np.ndarray:
        return model.pictures.decode(model.latents.inverse(latents))

    decoded, drawn = pictures(x), pictures(model.network.inverse(e))
    round_trips = pictures(model.network.inverse(found))
    return [
        {
            "sentence": shown.captions[own[i]],
            "found": held_out.captions[nearest[i]],
            "right": held_out.captions[nearest[i]] in captions,
            "picture": shown.pixels[i],
            "decoded": decoded[i],
            "drawn": drawn[i],
            "round_trip": round_trips[i],
            **{
                f"{name}_url": _data_url(image[i])
                for name, image in (
                    ("picture", shown.pixels),
                    ("decoded", decoded),
                    ("drawn", drawn),
                    ("round_trip", round_trips),
                )
            },
        }
        for i, captions in enumerate(_captions_of_each(shown))
    ]


def _captions_of_each(pairs: Pairs) -> list[list[str]]:
    captions: list[list[str]] = [[] for _ in pairs.names]
    for picture, caption in zip(pairs.picture.tolist(), pairs.caption.tolist(), strict=True):
        captions[picture].append(pairs.captions[caption])
    return captions


def _data_url(pixels: np.ndarray) -> str:
    figure_bytes = io.BytesIO()
    plt.imsave(figure_bytes, pixels)
    return "data:image/png;base64," + base64.b64encode(figure_bytes.getvalue()).decode()


def _curves(history: dict[str, list[float]]) -> str:
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for name, values in history.items():
        window = min(SMOOTHING, len(values))
        axes.plot(np.convolve(values, np.ones(window) / window, "valid"), label=name)
    if all(value > 0 for values in history.values() for value in values):
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="training loss")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    plt.close(figure)
    return svg.getvalue()[svg.getvalue().index("<svg") :]


def _sheet(rows: Sequence[dict[str, Any]]) -> Figure:
    figure, axes = plt.subplots(
        2, len(rows), figsize=(1.75 * len(rows), 4.4), layout="constrained", squeeze=False
    )
    for column, row in zip(axes.T, rows, strict=True):
        column[0].set_title(row["sentence"], fontsize=8, wrap=True)
        for axis, name in zip(column, ("picture", "drawn"), strict=True):
            axis.imshow(row[name])
            axis.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("held-out picture")
    axes[1, 0].set_ylabel("drawn from the sentence")
    return figure
