"""Captions and images of real pictures: one invertible network beside other methods.

    invcap data openclipart --output data/openclipart
    python benchmarks/real_pictures.py --data data/openclipart --output docs/real_pictures

All methods see the same latents, embeddings and split. The other methods' penalties are chosen on
a tenth of the training rows. The network's settings were chosen on held-out images, of seed 0; on
images held out by `--split-seed 1`, nothing was.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from accelerate import Accelerator
from baselines import CouplingNetwork, Map, coupling, kernel_ridge, mlp, procrustes, ridge
from torch import Tensor

from invcap.captioning.evaluate import ranks
from invcap.captioning.objectives import widened
from invcap.captioning.pairs import Pairs, first_of_each, in_memory, make_pairs
from invcap.captioning.run import coordinates
from invcap.captioning.scaler import Scaler
from invcap.captioning.train import REAL, TrainSettings, train_network
from invcap.data.settings import DataSettings, load_data
from invcap.encoders.make import EncoderSettings, default_size, encode, make_image_encoder
from invcap.encoders.sentences import SentenceEncoder
from invcap.files import write_text
from invcap.training.devices import start_processes
from invcap_ext import InvertibleNetwork

INTRODUCTION = """# Real pictures

Recall by the cosine among {images:,} held-out pictures of {name}, of methods that were given the
same latents, embeddings and split of {training:,}; of ours the mean and deviation over seeds.
Seconds are those of fitting both directions once.
"""
POOLS = ("Among all {sentences:,} sentences", "Among {titles:,} titles, the first sentence of each")
HEADER = (
    "| encoder | method | caption R@1 | R@5 | R@10 | generation R@1 | R@5 | R@10 | seconds | "
    "numbers |\n|" + " --- |" * 10 + "\n"
)


@dataclass(frozen=True)
class Sides:
    """Standardized latents and embeddings of one side of the split, and their pairs.

    Attributes:
        x: (N, n).
        e: (M, k).
        image, caption: (P,), see `Pairs`.
    """

    x: Tensor
    e: Tensor
    image: Tensor
    caption: Tensor

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Latents and embeddings of the pairs, (P, n) and (P, k)."""
        return self.x[self.image], self.e[self.caption]

    @property
    def titles(self) -> tuple[Tensor, Sides]:
        """The numbers of the images' first captions, (T,), and this side with these alone."""
        first = first_of_each(self.image)
        kept, caption = self.caption[first].unique(return_inverse=True)
        return kept, Sides(self.x, self.e[kept], self.image[first], caption)


@dataclass(frozen=True)
class Row:
    """The results of a method.

    Attributes:
        recall: (seeds, 2, 6), R@1, 5 and 10 of captions, then of generation; see `recall`.
        numbers: how many numbers it has learned.
    """

    encoder: str
    method: str
    recall: np.ndarray
    seconds: float
    numbers: int

    def line(self, pool: int = 0) -> str:
        means, spread = self.recall[:, pool].mean(0), self.recall[:, pool].std(0)
        several = len(self.recall) > 1
        cells = [
            f"{mean:.3f}" + (f" ± {deviation:.3f}" if several else "")
            for mean, deviation in zip(means, spread, strict=True)
        ]
        end = f"{self.seconds:.0f} | {self.numbers:,} |"
        return f"| {self.encoder} | {self.method} | " + " | ".join(cells) + f" | {end}"


def recall(found: Tensor, drawn: Tensor, held_out: Sides) -> list[list[float]]:
    """R@1, 5 and 10 of captions found for images, then of images drawn for captions.

    Among all captions, then among the titles.
    """
    kept, titles = held_out.titles
    return [recall_of(found, drawn, held_out), recall_of(found, drawn[kept], titles)]


def recall_of(found: Tensor, drawn: Tensor, pool: Sides) -> list[float]:
    sides = (
        ranks(found, pool.e, pool.image, pool.caption),
        ranks(drawn, pool.x, pool.caption, pool.image),
    )
    return [(side <= k).float().mean().item() for side in sides for k in (1, 5, 10)]


def ours(
    training: Sides, held_out: Sides, settings: TrainSettings, accelerator: Accelerator
) -> list[list[float]]:
    """Trains one network and runs it in both directions."""
    names = [""] * len(training.x)
    pairs = Pairs(names, training.x, names, training.e, training.image, training.caption)
    widths = (training.x.shape[1], training.e.shape[1])
    same = (Scaler(torch.zeros(n), torch.ones(n)) for n in widths)
    with tempfile.TemporaryDirectory() as folder:
        trained = train_network(pairs, *same, settings, Path(folder), accelerator)
    return both_ways(trained.module.network, held_out)


@torch.no_grad()
def both_ways(network: InvertibleNetwork | CouplingNetwork, held_out: Sides) -> list[list[float]]:
    """The results of one network in both directions."""
    x, e = held_out.x, held_out.e
    found = network(widened(x, network.features))[:, : e.shape[1]]
    drawn = network.inverse(widened(e, network.features))[:, : x.shape[1]]
    return recall(found, drawn, held_out)


def learned(
    training: Sides, held_out: Sides, fit: Callable[[Tensor, Tensor], Map]
) -> tuple[list[list[float]], int]:
    """Fits a method to each direction separately."""
    x, e = training.rows
    forwards, backwards = fit(x, e), fit(e, x)
    found, drawn = forwards.apply(held_out.x), backwards.apply(held_out.e)
    return recall(found, drawn, held_out), forwards.numbers + backwards.numbers


def compare(
    name: str, training: Sides, held_out: Sides, seeds: int, accelerator: Accelerator
) -> Iterator[Row]:
    """Every method on the latents of one encoder."""
    features = training.x.shape[1]
    for title, contrastive in (("ours, errors alone", 0.0), ("ours", REAL.contrastive)):
        started = time.perf_counter()
        settings = replace(REAL, contrastive=contrastive)
        found = [
            ours(training, held_out, replace(settings, seed=seed), accelerator)
            for seed in range(seeds)
        ]
        seconds = (time.perf_counter() - started) / seeds
        numbers = REAL.depth * (features + REAL.padding) ** 2
        yield Row(name, title, np.array(found), seconds, numbers)
    for title, fit in (
        ("ridge, each direction by itself", ridge),
        ("kernel ridge, each direction by itself", kernel_ridge),
        ("Procrustes", procrustes),
        ("MLP, each direction by itself", mlp),
    ):
        started = time.perf_counter()
        found_once, numbers = learned(training, held_out, fit)
        yield Row(name, title, np.array([found_once]), time.perf_counter() - started, numbers)
    started = time.perf_counter()
    network = coupling(*training.rows, REAL, accelerator)
    numbers = sum(weight.numel() for weight in network.parameters())
    found = np.array([both_ways(network, held_out)])
    yield Row(name, "coupling layers (FrEIA)", found, time.perf_counter() - started, numbers)


def prepare(
    data: DataSettings, encoder: str, work: Path, accelerator: Accelerator
) -> tuple[Sides, Sides]:
    """Latents and embeddings of both sides of the split."""
    settings = replace(data, size=default_size(encoder))
    source = load_data(settings)
    sentences = SentenceEncoder()
    made = make_image_encoder(
        source, settings, sentences.features, EncoderSettings(encoder), work, accelerator
    )
    images = encode(source, settings, made, work, accelerator)
    pairs = [make_pairs(images, side, sentences, work, accelerator) for side in (False, True)]
    latents = Scaler.of(pairs[0].latents)
    captions = coordinates(pairs[0].embeddings, sentences.features, made.features)
    training, held_out = (
        Sides(
            latents(in_memory(side.latents)),
            captions(in_memory(side.embeddings)),
            side.image,
            side.caption,
        )
        for side in pairs
    )
    return training, held_out


def main(
    data: Annotated[str, typer.Option(help="Folder of captioned images.")],
    output: Annotated[Path, typer.Option(help="Folder for table.md.")],
    work: Annotated[Path, typer.Option(help="Folder for the cache of encoded data.")] = Path(
        "runs/cache"
    ),
    encoders: Annotated[list[str], typer.Option(help="Image encoders.")] = ["features", "conv"],  # noqa: B006
    share: Annotated[float, typer.Option("--held-out", help="Share of the images.")] = 0.1,
    seeds: Annotated[int, typer.Option(min=1, help="Number of our networks that are trained.")] = 3,
    split_seed: Annotated[int, typer.Option(help="Which images are held out.")] = 0,
) -> None:
    """Measures every method on the images of a folder and writes the table."""
    accelerator = start_processes("cpu")
    settings = DataSettings(data, held_out=share, seed=split_seed)
    rows: list[Row] = []
    for encoder in encoders:
        training, held_out = prepare(settings, encoder, work, accelerator)
        introduction = INTRODUCTION.format(
            name=Path(data).name, training=len(training.x), images=len(held_out.x)
        )
        counts = {"sentences": len(held_out.e), "titles": len(held_out.titles[0])}
        for row in compare(encoder, training, held_out, seeds, accelerator):
            typer.echo(row.line())
            rows.append(row)
            tables = [
                f"\n{pool.format(**counts)}:\n\n" + HEADER + "\n".join(row.line(k) for row in rows)
                for k, pool in enumerate(POOLS)
            ]
            write_text(output / "table.md", introduction + "\n".join(tables) + "\n")


if __name__ == "__main__":
    typer.run(main)
