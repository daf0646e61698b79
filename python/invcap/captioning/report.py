"""report.html: the figures, the curves and the images of a training run."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from invcap.captioning.model import InvertibleCaptioner
from invcap.captioning.objectives import widened
from invcap.captioning.pairs import Pairs, first_of_each, in_memory
from invcap.captioning.refine import refinement
from invcap.captioning.similarity import similarities
from invcap.data.encode import decode_png
from invcap.figures import write_figure
from invcap.files import write_text

BEST = 8
RANDOM = 16
SHOWN_ON_SHEET = 8
SMOOTHING = 25


@dataclass(frozen=True)
class Shown:
    """One held-out image, (H, W, 3) bytes, with the results of both directions.

    Attributes:
        sentence: its caption.
        found: the nearest of all held-out captions.
        written: a new sentence, if there is a writer.
        right: whether `found` is one of its own captions.
        image: the image itself.
        decoded: its autoencoder reconstruction.
        drawn: drawn from the sentence, by the network's inverse.
        round_trip: its reconstruction through the network and back.
    """

    sentence: str
    found: str
    written: str | None
    right: bool
    image: np.ndarray
    decoded: np.ndarray
    drawn: np.ndarray
    round_trip: np.ndarray


def write_report(
    output: Path,
    model: InvertibleCaptioner,
    held_out: Pairs,
    metrics: dict[str, Any],
    history: dict[str, list[float]],
    settings: dict[str, Any],
    seed: int,
) -> None:
    """Writes report.html, one file with its images inside, and samples.png into `output`."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(held_out.names), generator=generator)[:RANDOM].tolist()
    best = _show(model, held_out, best_drawn(model, held_out, BEST))
    some = _show(model, held_out, chosen)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("invcap.captioning", "."), autoescape=True
    )
    environment.filters["data_url"] = _data_url
    page = environment.get_template("report.html").render(
        metrics=metrics,
        settings=settings,
        held_out=len(held_out.names),
        curves=_curves(history),
        best=best,
        some=some,
        refine_steps=refinement(model.image_encoder, None)[1],
    )
    write_text(output / "report.html", page)
    write_figure(output / "samples.png", _sheet(best, some[:SHOWN_ON_SHEET]))


@torch.no_grad()
def best_drawn(model: InvertibleCaptioner, held_out: Pairs, count: int) -> list[int]:
    """The images whose latents are most similar to what the inverse makes of their first captions.

    Of several images with that caption, only the best.
    """
    first = first_of_each(held_out.image)
    x = model.latent_scaler(in_memory(held_out.latents).to(model.device))
    e = model.embedding_scaler(held_out.embeddings[held_out.caption[first]].to(model.device))
    drawn = model.network.inverse(widened(e, model.network.features))[:, : x.shape[1]]
    order = F.cosine_similarity(drawn, x).argsort(descending=True).tolist()
    captions = held_out.caption[first].tolist()
    chosen: dict[int, int] = {}
    for image in order:
        chosen.setdefault(captions[image], image)
    return list(chosen.values())[:count]


@torch.no_grad()
def _show(model: InvertibleCaptioner, held_out: Pairs, chosen: Sequence[int]) -> list[Shown]:
    def decoded(x: Tensor) -> np.ndarray:
        return model.image_encoder.decode(model.latent_scaler.inverse(x))

    own = [held_out.caption[held_out.image == index].tolist() for index in chosen]
    x = model.latent_scaler(held_out.latents[torch.tensor(chosen)].to(model.device))
    targets = model.embedding_scaler(in_memory(held_out.embeddings).to(model.device))
    features, width = x.shape[1], model.network.features
    y = model.network(widened(x, width))
    found = y[:, : targets.shape[1]]
    nearest = similarities(found, targets).argmax(1).tolist()
    written: list[str | None] = [None] * len(chosen)
    if model.writer is not None:
        written = [best[0].text for best in model.write_for(found)]
    drawn = model.draw(targets[[captions[0] for captions in own]])
    round_trips = decoded(model.network.inverse(y)[:, :features])
    columns = zip(chosen, own, nearest, written, decoded(x), drawn, round_trips, strict=True)
    return [
        Shown(
            held_out.captions[captions[0]],
            held_out.captions[answer],
            words,
            answer in captions,
            decode_png(held_out.pngs[index]),
            *images,
        )
        for index, captions, answer, words, *images in columns
    ]


def _data_url(pixels: np.ndarray) -> str:
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _curves(history: dict[str, list[float]]) -> str:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
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
    return svg.getvalue()[svg.getvalue().index("<svg") :]


def _sheet(best: Sequence[Shown], some: Sequence[Shown]) -> Figure:
    columns = max(len(best), len(some))
    figure = Figure(figsize=(1.6 * columns, 8.6), layout="constrained")
    halves = figure.subfigures(2, 1, squeeze=False)[:, 0]
    titles = ("drawn best: the closest to their image of all held out", "chosen at random")
    for half, title, shown in zip(halves, titles, (best, some), strict=True):
        half.suptitle(title, fontsize=10)
        axes = half.subplots(2, columns, squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[], frame_on=False)
        for (above, below), one in zip(axes.T, shown, strict=False):
            above.set_title(textwrap.fill(one.sentence, 24), fontsize=7)
            found = textwrap.fill(f"found: {one.found}", 24)
            below.set_xlabel(found, fontsize=7, color="#060" if one.right else "#a00")
            above.imshow(one.image)
            below.imshow(one.drawn)
        axes[0, 0].set_ylabel("held-out image")
        axes[1, 0].set_ylabel("drawn from the sentence")
    return figure
