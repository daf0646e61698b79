"""A whole training run: data, encoders, training, evaluation, report."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from invcap.captioning.evaluate import evaluate
from invcap.captioning.model import InvertibleCaptioner, Standardiser
from invcap.captioning.pairs import cached_autoencoder, cached_latents, encode_pairs
from invcap.captioning.report import write_report
from invcap.captioning.train import CHECKPOINT, CaptionsOf, TrainSettings, train_network
from invcap.data.augment import augmented
from invcap.data.settings import DataSettings, load_split
from invcap.encoders.autoencoder import AutoencoderSettings
from invcap.encoders.images import PictureEncoder, check_features, load_autoencoder
from invcap.encoders.sentences import MINILM, SentenceEncoder
from invcap.files import write_json

logger = logging.getLogger(__name__)
PATCH = 4


@dataclass(frozen=True)
class EncoderSettings:
    """The frozen encoders.

    Attributes:
        autoencoder: folder or hub name; None to train a small one on the training pictures.
        sentence_encoder: sentence-transformers folder or name; "minilm" is installed.
        training: how the small autoencoder is trained.
    """

    autoencoder: str | None = None
    sentence_encoder: str = MINILM
    training: AutoencoderSettings = field(default_factory=AutoencoderSettings)


def make_picture_encoder(
    pixels: np.ndarray, features: int, settings: EncoderSettings, cache: Path
) -> PictureEncoder:
    """Loads the autoencoder that the settings name, or trains one on pictures (N, H, W, 3).

    Raises:
        ValueError: pictures of this size have no latent of `features` numbers.
    """
    size = pixels.shape[1:3]
    if settings.autoencoder is not None:
        return PictureEncoder(load_autoencoder(settings.autoencoder), size)
    cells, rest = (size[0] // PATCH) * (size[1] // PATCH), size[0] % PATCH + size[1] % PATCH
    if rest or cells == 0 or features % cells:
        raise ValueError(
            f"size must give {features} / (height / {PATCH} * width / {PATCH}) whole latent "
            f"channels, such as 32x32 for 384, got {size[0]}x{size[1]}"
        )
    with tqdm(total=settings.training.steps, desc="autoencoder") as bar:

        def on_step(step: int, loss: float) -> None:
            bar.update()
            bar.set_postfix(mse=f"{loss:.4f}", refresh=False)

        autoencoder = cached_autoencoder(
            pixels, features // cells, settings.training, cache, on_step
        )
    return PictureEncoder(autoencoder, size)


def train(
    output: Path,
    data: DataSettings,
    encoders: EncoderSettings,
    settings: TrainSettings,
    cache: Path,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains a captioner and writes it, its metrics and its report into `output`.

    Returns:
        What metrics.json says.

    Raises:
        ValueError: the data or a setting cannot be used, or `output` holds a run and `resume`
            is false.
        TrainingDivergedError: a loss is not finite.
    """
    if not resume and (output / CHECKPOINT).exists():
        raise ValueError(f"{output}: holds a run already; resume it, or give another folder")
    started = time.perf_counter()
    split = load_split(data)
    training_pixels = split.pixels[split.train]
    variants = augmented(training_pixels, data.augment, data.seed)
    sentences = SentenceEncoder(encoders.sentence_encoder)
    flat = variants.reshape(-1, *training_pixels.shape[1:])
    pictures = make_picture_encoder(flat, sentences.features, encoders, cache)
    check_features(pictures, sentences)
    pairs = encode_pairs(split.examples, split.pixels, pictures, sentences, cache)
    training, held_out = pairs.subset(split.train), pairs.subset(split.held_out)
    training_latents = training.latents[:, None]
    if data.augment:
        copies = cached_latents(pictures, variants[:, 1:].reshape(-1, *flat.shape[1:]), cache)
        copies = copies.view(len(training_latents), data.augment, -1)
        training_latents = torch.cat([training_latents, copies], 1)
    latents, embeddings = Standardiser.of(training.latents), Standardiser.of(training.embeddings)
    prepared = time.perf_counter()

    with (
        SummaryWriter(str(output / "tensorboard")) as board,
        tqdm(total=settings.steps, desc="training") as bar,
    ):

        def on_step(step: int, losses: dict[str, float]) -> None:
            bar.update(step - bar.n)
            bar.set_postfix({name: f"{v:.4f}" for name, v in losses.items()}, refresh=False)
            for name, value in losses.items():
                board.add_scalar(f"loss/{name}", value, step)

        trainee, progress = train_network(
            latents(training_latents),
            embeddings(training.embeddings),
            CaptionsOf(training.picture, training.caption),
            settings,
            output,
            resume,
            data_fingerprint=training.fingerprint(),
            on_step=on_step,
        )
    model = InvertibleCaptioner(
        trainee.network,
        pictures,
        sentences,
        latents,
        embeddings,
        training.captions,
        training.embeddings,
        sigma=trainee.log_sigma.exp().item() if settings.objective == "likelihood" else 0.0,
    )
    facts = {"data": asdict(data), "training": asdict(settings)}
    model.save_pretrained(output, **facts)
    trained = time.perf_counter()
    metrics = evaluate(model, held_out)
    metrics["seconds"] = {
        "prepare": prepared - started,
        "train": trained - prepared,
        "evaluate": time.perf_counter() - trained,
    }
    write_json(output / "metrics.json", metrics)
    shown = {**asdict(data), **asdict(settings), "seed": settings.seed}
    write_report(output, model, held_out, metrics, progress.history, shown, settings.seed)
    return metrics
