"""A whole training run: data, encoders, training, evaluation, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import log10
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator

from invcap.captioning.evaluate import evaluate
from invcap.captioning.model import InvertibleCaptioner
from invcap.captioning.pairs import make_pairs
from invcap.captioning.report import write_report
from invcap.captioning.scaler import Scaler
from invcap.captioning.train import CHECKPOINT, TrainSettings, train_network
from invcap.captioning.train_writer import (
    WRITER_CHECKPOINT,
    WriterSettings,
    load_pretrained,
    train_writer,
)
from invcap.data.encode import EncodedImages, decode_png
from invcap.data.example import Examples
from invcap.data.images import open_image
from invcap.data.settings import DataSettings, load_data
from invcap.data.shards import Rows, blocks
from invcap.data.split import split_by_group
from invcap.encoders.autoencoder import AutoencoderSettings
from invcap.encoders.images import AutoencoderImages, save_autoencoder
from invcap.encoders.interface import ImageEncoder
from invcap.encoders.make import EncoderSettings, encode, make_image_encoder
from invcap.encoders.sentences import SentenceEncoder
from invcap.files import remove_unfinished, write_json, write_text
from invcap.hashing import digest

RECORD = "run.yaml"
WRITTEN = (
    RECORD,
    "README.md",
    CHECKPOINT,
    WRITER_CHECKPOINT,
    "autoencoder",
    "captions.faiss",
    "captions.json",
    "captions.safetensors",
    "config.json",
    "image_encoder",
    "metrics.json",
    "model.safetensors",
    "report.html",
    "samples.png",
    "tensorboard",
    "writer",
)
WIDTHS = (16, 8192)


def train(
    output: Path,
    data: DataSettings,
    encoders: EncoderSettings,
    settings: TrainSettings,
    cache: Path,
    accelerator: Accelerator,
    resume: bool = False,
    overwrite: bool = False,
    configuration: Mapping[str, Any] | None = None,
    writer: WriterSettings | None = None,
) -> dict[str, Any]:
    """Trains a captioner and writes it, its metrics and its report into `output`.

    Args:
        resume: resume the run that `output` holds, if it holds one.
        overwrite: remove what an earlier run wrote there, once the data can be used.
        configuration: the options that `run.yaml` records.
        writer: train a writer too, last.

    Returns:
        What metrics.json says.

    Raises:
        ValueError: the data or a setting cannot be used, or `output` holds a run and neither
            `resume` nor `overwrite` is true.
        TrainingDivergedError: a loss is not finite.
    """
    if not (resume or overwrite) and any((output / name).exists() for name in WRITTEN):
        raise ValueError(f"{output}: holds a run already; resume it, or give another folder")
    started = time.perf_counter()
    pretrained = load_pretrained(writer)
    source = load_examples_to_split(data)
    sentences = SentenceEncoder(encoders.sentence_encoder).to(accelerator.device)
    encoder = make_image_encoder(source, data, sentences.features, encoders, cache, accelerator)
    check_width(encoder, settings.variations)
    images = encode(source, data, encoder, cache, accelerator, encoders.storage)
    training, held_out = (
        make_pairs(images, side, sentences, cache, accelerator, encoders.storage)
        for side in (False, True)
    )
    latent_scaler = Scaler.of(training.latents)
    embedding_scaler = coordinates(
        training.embeddings, sentences.features, encoder.features - settings.variations
    )
    if accelerator.is_main_process:
        if overwrite:
            remove_run(output)
        remove_unfinished(output, output / "image_encoder", output / "writer")
        if not (output / CHECKPOINT).exists():
            write_record(output, configuration)
    accelerator.wait_for_everyone()
    prepared = time.perf_counter()

    accelerator.init_trackers("invcap")
    trained = train_network(
        training, latent_scaler, embedding_scaler, settings, output, accelerator
    )
    finished = time.perf_counter()
    seconds = {"prepare": prepared - started, "train": finished - prepared}
    writing = None
    if writer is not None:
        writing = train_writer(
            pretrained,
            training,
            trained.module.network,
            latent_scaler,
            embedding_scaler,
            settings.noise,
            writer,
            output,
            accelerator,
        ).module
        seconds["writer"] = time.perf_counter() - finished
        finished = time.perf_counter()
    metrics: dict[str, Any] = {}
    if accelerator.is_main_process:
        module = trained.module
        model = InvertibleCaptioner(
            module.network,
            encoder,
            sentences,
            latent_scaler,
            embedding_scaler,
            training.captions,
            torch.cat([block.half() for block in blocks(training.embeddings)]),
            sigma=module.log_sigma.exp().item() if settings.objective == "likelihood" else 0.0,
            writer=writing,
            variations=settings.variations,
        ).to(accelerator.device)
        model.about = {"data": asdict(data), "training": asdict(settings)}
        model.save_pretrained(output)
        measured = evaluate(model, held_out)
        seconds["evaluate"] = time.perf_counter() - finished
        metrics = measured | {"seconds": seconds}
        shown = {**asdict(data), **asdict(settings)}
        write_report(output, model, held_out, metrics, trained.history, shown, settings.seed)
        model.about["metrics"], model.samples = measured, open_image(output / "samples.png")
        model.write_card(output)
        write_json(output / "metrics.json", metrics)
        write_record(output, configuration)
    accelerator.wait_for_everyone()
    return metrics


def train_small_autoencoder(
    output: Path,
    data: DataSettings,
    features: int,
    settings: AutoencoderSettings,
    cache: Path,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Trains a `ConvAutoencoder` and writes it into `output`.

    Returns:
        Its folder, the shape of a latent, and the peak signal-to-noise ratio of held-out images.

    Raises:
        ValueError: the data or a setting cannot be used.
    """
    source = load_examples_to_split(data)
    encoders = EncoderSettings(training=settings)
    encoder = make_image_encoder(source, data, features, encoders, cache, accelerator)
    images = encode(source, data, encoder, cache, accelerator)
    error = held_out_error(images, encoder)
    assert isinstance(encoder, AutoencoderImages)
    if accelerator.is_main_process:
        save_autoencoder(encoder.autoencoder, output)
    psnr = 20 * log10(255) - 10 * log10(error)
    return {"autoencoder": str(output), "latent_shape": encoder.latent_shape, "psnr": psnr}


def evaluate_captioner(
    model: InvertibleCaptioner, data: DataSettings, cache: Path, accelerator: Accelerator
) -> dict[str, Any]:
    """Measures both directions of a captioner on the held-out part of some data."""
    source = load_data(data)
    if isinstance(source.examples, Sequence):
        _, chosen = split_by_group(source.examples, data.held_out, data.seed)
        kept = [source.examples[index] for index in chosen]
        source = Examples(kept, identity=digest(source.identity, "held out"))
    images = encode(source, data, model.image_encoder, cache, accelerator)
    sentences = model.sentence_encoder
    return evaluate(model, make_pairs(images, True, sentences, cache, accelerator))


def coordinates(embeddings: Rows, features: int, most: int) -> Scaler:
    """The caption's coordinates of embeddings, (M, features): all, or so many components."""
    return Scaler.of(embeddings) if features <= most else Scaler.principal(embeddings, most)


def check_width(encoder: ImageEncoder, variations: int) -> None:
    """Raises ValueError for latents too small or large, or too small for the variations."""
    least, most = WIDTHS
    if not least <= encoder.features <= most:
        height, width = encoder.size
        raise ValueError(
            f"size must give latents of {least} to {most:,} numbers, got {encoder.features:,} of "
            f"images of {height}x{width}"
        )
    if variations >= encoder.features:
        raise ValueError(
            f"variations must be below the {encoder.features} numbers of a latent, got {variations}"
        )


def load_examples_to_split(data: DataSettings) -> Examples:
    """The examples of some data; of a sequence, both sides of the split have some."""
    source = load_data(data)
    if isinstance(source.examples, Sequence):
        split_by_group(source.examples, data.held_out, data.seed)
    return source


def held_out_error(images: EncodedImages, encoder: ImageEncoder) -> float:
    """Mean squared error of held-out images decoded from their latents, in pixel values."""
    rows, pngs = images.rows(), images.pngs()
    total, count = 0.0, 0
    for number, png in pngs.items():
        decoded = encoder.decode(rows[torch.tensor([number * images.variants])])[0]
        difference = decoded.astype(float) - decode_png(png)
        total, count = total + (difference**2).sum(), count + difference.size
    return total / count


def write_record(output: Path, configuration: Mapping[str, Any] | None) -> None:
    """Writes run.yaml, from which `--config` repeats the run."""
    text = yaml.safe_dump(dict(configuration or {}), sort_keys=False, allow_unicode=True)
    write_text(output / RECORD, text)


def remove_run(output: Path) -> None:
    """Removes what an earlier run wrote, and nothing else."""
    for name in WRITTEN:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
