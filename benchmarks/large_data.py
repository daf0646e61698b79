"""Memory and time of training on data larger than memory, and memory of encoding images.

    python benchmarks/large_data.py --work runs/large --output docs/large_data

Pairs are synthetic: embeddings are a mixture of latents. Each peak is that of a separate process;
steps from disk and from memory are timed in turns.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
import typer
from accelerate import Accelerator
from layer_speed import peak_resident
from PIL import Image
from timing import median_seconds

from invcap.captioning.pairs import Pairs, in_memory
from invcap.captioning.scaler import Scaler
from invcap.captioning.train import TrainSettings, train_network
from invcap.data import load_examples
from invcap.data.encode import encode_images
from invcap.data.settings import DataSettings
from invcap.data.shards import ShardRows, numbers, write_shards
from invcap.encoders.autoencoder import ConvAutoencoder
from invcap.encoders.images import AutoencoderImages
from invcap.files import read_json, write_json, write_text

FEATURES = 384
STEPS = 100
DRAWS = 2000
SIDE = 128
Count = Annotated[int, typer.Argument()]

app = typer.Typer(pretty_exceptions_enable=False)


def make_pairs(folder: Path, count: int) -> Pairs:
    """Pairs on disk, which are written at the first call."""
    generator = np.random.default_rng(0)

    def table(part: range) -> pa.Table:
        x = generator.standard_normal((len(part), FEATURES), np.float32)
        e = np.roll(x, 1, 1) + 0.3 * x**2
        return pa.table({"latents": numbers(x), "embeddings": numbers(e)})

    paths = write_shards(range(count), table, folder, Accelerator(cpu=True), "pairs")
    every = torch.arange(count)
    latents, embeddings = (ShardRows(paths, name) for name in ("latents", "embeddings"))
    return Pairs(range(count), latents, range(count), embeddings, every, every)


def train(pairs: Pairs, work: Path, steps: int) -> None:
    """Trains a network of the default depth, with statistics from a few rows."""
    some = torch.arange(min(20_000, len(pairs.names)))
    scalers = [Scaler.of(rows[some]) for rows in (pairs.latents, pairs.embeddings)]
    shutil.rmtree(work, ignore_errors=True)
    settings = TrainSettings(steps=steps, checkpoint_every=steps)
    train_network(pairs, *scalers, settings, work, Accelerator(cpu=True))


@app.command(hidden=True)
def peak_of_training(count: Count, work: Path, result: Path) -> None:
    """Writes the peak of resident memory, bytes, of reading batches and of training steps."""
    pairs = make_pairs(work / f"pairs-{count}", count)
    generator = torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        chosen = torch.randint(count, (512,), generator=generator)
        for rows in (pairs.latents, pairs.embeddings):
            rows[chosen]
    train(pairs, work / "trained", STEPS)
    write_json(result, peak_resident())


@app.command(hidden=True)
def peak_of_encoding(count: Count, work: Path, result: Path) -> None:
    """Writes the peak of resident memory, bytes, of encoding the first `count` images."""
    source = load_examples(str(work / "images"))
    source.examples = source.examples[:count]
    source.identity = str(count)
    encoder = AutoencoderImages(ConvAutoencoder(), (32, 32))
    encode_images(
        source,
        DataSettings("images"),
        lambda pixels: encoder.encode(pixels).numpy(),
        encoder.features,
        "untrained",
        work / "encoded",
        Accelerator(cpu=True),
    )
    write_json(result, peak_resident())


def peak(command: str, count: int, work: Path) -> float:
    """Peak memory of a command of this script, GiB."""
    result = work / "peak.json"
    subprocess.run([sys.executable, __file__, command, str(count), work, result], check=True)
    return read_json(result) / 2**30


def make_images(folder: Path, count: int) -> None:
    """Images of noise with a text file beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        small = generator.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(small).resize((SIDE, SIDE)).save(folder / f"{number}.jpg")
        (folder / f"{number}.txt").write_text(f"image {number}")


@app.command()
def measure(
    work: Annotated[Path, typer.Option(help="Folder for the data, 3 GB; it is kept.")],
    output: Annotated[Path, typer.Option(help="Folder for the table.")],
    pairs: Annotated[int, typer.Option(help="Pairs to train on.")] = 1_000_000,
    images: Annotated[int, typer.Option(help="Images to encode.")] = 20_000,
) -> None:
    """Measures all of it and writes a table."""
    shutil.rmtree(work / "encoded", ignore_errors=True)
    if not (work / "images").exists():
        make_images(work / "images", images)
    disk = make_pairs(work / f"pairs-{pairs}", pairs)
    training = {count: peak("peak-of-training", count, work) for count in (pairs // 10, pairs)}
    encoding = {count: peak("peak-of-encoding", count, work) for count in (images // 10, images)}
    memory = Pairs(
        **{
            **vars(disk),
            "latents": in_memory(disk.latents),
            "embeddings": in_memory(disk.embeddings),
        }
    )
    runs = {
        name: lambda data=data, name=name: train(data, work / name, STEPS // 5)
        for name, data in (("disk", disk), ("memory", memory))
    }
    seconds = median_seconds(runs, rounds=7, warm_up=1)
    ratio = seconds["disk"] / seconds["memory"]
    lines = ["| | peak resident memory, GiB |", "| --- | --- |"]
    lines += [f"| training on {count:,} pairs | {gib:.2f} |" for count, gib in training.items()]
    lines += [f"| encoding {count:,} images | {gib:.2f} |" for count, gib in encoding.items()]
    lines += ["", f"A step from disk takes {ratio:.2f} times one from memory."]
    write_text(output / "table.md", "\n".join(lines) + "\n")
    facts = {"training_gib": training, "encoding_gib": encoding, "step_ratio": ratio}
    write_json(output / "results.json", facts)


if __name__ == "__main__":
    app()
