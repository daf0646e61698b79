"""Training of the writer, the last stage of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from invcap.captioning.language import HEAD_WIDTH, SMALL, load_language, small_language
from invcap.captioning.objectives import widened
from invcap.captioning.pairs import Pairs
from invcap.captioning.scaler import Scaler
from invcap.captioning.train import Choices, draw_pairs
from invcap.captioning.writer import IGNORED, MOST_TOKENS, Writer, rescaled
from invcap.checks import check_at_least, check_finite, check_fraction
from invcap.hashing import fingerprint
from invcap.training.trainer import Batch, Trained, TrainerSettings, train
from invcap_ext import InvertibleNetwork

WRITER_CHECKPOINT = "writer_checkpoint.safetensors"
LEARNING_RATE = 2e-3
PRETRAINED_LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class WriterSettings:
    """Settings that, with the pairs and the network, determine a trained writer.

    Attributes:
        model: `small`, or folder or hub name of a causal language model with its tokenizer.
        layers, width: of `small`.
        vocabulary: most tokens of `small`.
        prefix: input vectors that an embedding becomes.
        batch_size: captions a step.
        steps: optimizer steps.
        noise: deviation of what is added to embeddings of unit variance.
        predicted: share of a batch that sees the network's prediction for a training image
            instead of its caption's embedding.
        checkpoint_every: steps between checkpoints.
        seed: of weights, batches and noise.
    """

    model: str = SMALL
    layers: int = 3
    width: int = 192
    vocabulary: int = 4096
    prefix: int = 4
    batch_size: int = 64
    steps: int = 1000
    noise: float = 0.3
    predicted: float = 0.5
    checkpoint_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("layers", "prefix", "batch_size", "steps", "checkpoint_every")
        check_at_least(self, 1, *counts, of="writer ")
        if self.width < HEAD_WIDTH or self.width % HEAD_WIDTH:
            raise ValueError(f"writer width must be a multiple of {HEAD_WIDTH}, got {self.width}")
        check_finite(self, "noise", above_zero=False, of="writer ")
        check_fraction(self, "predicted", of="writer ")


class TokenRows:
    """Captions as tokens, one that ends the text last, at most `MOST_TOKENS` of each."""

    def __init__(self, tokenizer: Any, captions: Sequence[str]) -> None:
        every = tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        rows = [[*row, tokenizer.eos_token_id][:MOST_TOKENS] for row in every]
        self._ends = torch.tensor([len(row) for row in rows]).cumsum(0).tolist()
        self._tokens = torch.tensor([token for row in rows for token in row], dtype=torch.int32)

    def __getitem__(self, chosen: Tensor) -> Tensor:
        """Some captions' tokens, (len(chosen), T) int64, filled up with `IGNORED`."""
        rows = [
            self._tokens[self._ends[caption - 1] if caption else 0 : self._ends[caption]]
            for caption in chosen.tolist()
        ]
        return pad_sequence(rows, batch_first=True, padding_value=IGNORED).long()


def load_pretrained(settings: WriterSettings | None) -> tuple[Any, Any] | None:
    """The language model and tokenizer that a writer starts from; None for one of our own.

    Raises:
        ValueError: there is no such model.
    """
    return None if settings is None or settings.model == SMALL else load_language(settings.model)


def make_writer(
    pretrained: tuple[Any, Any] | None,
    captions: Sequence[str],
    coordinates: int,
    settings: WriterSettings,
) -> Writer:
    """A writer before its training, by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        language, tokenizer = pretrained or small_language(
            captions,
            settings.vocabulary,
            settings.layers,
            settings.width,
            settings.prefix + MOST_TOKENS,
        )
        return Writer(language, tokenizer, coordinates, settings.prefix)


def train_writer(
    pretrained: tuple[Any, Any] | None,
    pairs: Pairs,
    network: InvertibleNetwork,
    latent_scaler: Scaler,
    embedding_scaler: Scaler,
    latent_noise: float,
    settings: WriterSettings,
    output: Path,
    accelerator: Accelerator,
) -> Trained[Writer]:
    """Trains a writer of the pairs' captions, from the checkpoint in `output` if there is one.

    It sees embeddings of captions with noise, and what the network predicts for their images.

    Args:
        pretrained: as `load_pretrained` gives it.
        network: trained; it stays as it is.
        latent_noise: deviation of what is added to latents, as in the network's training, so that
            predictions for training images err as those for others do.

    Raises:
        TrainingDivergedError: a loss is not finite.
        ValueError: the checkpoint belongs to other settings, pairs or another network.
    """
    coordinates = embedding_scaler.features
    writer = make_writer(pretrained, pairs.captions, coordinates, settings)
    rows = TokenRows(writer.tokenizer, pairs.captions)
    captions_of = Choices(pairs.image, pairs.caption)
    network = network.to(accelerator.device).eval()

    def draw(generator: torch.Generator, part: slice) -> Batch:
        count = settings.batch_size
        _, captions, latents = draw_pairs(pairs, captions_of, count, generator)
        tokens = rows[captions]
        weight = count / (tokens != IGNORED).sum()
        noise = settings.noise * torch.randn(count, coordinates, generator=generator)
        moved = latent_noise * torch.randn(count, latent_scaler.features, generator=generator)
        predicted = torch.rand(count, generator=generator) < settings.predicted
        return {
            "x": latent_scaler(pairs.latents[latents[part]]) + moved[part],
            "e": rescaled(embedding_scaler(pairs.embeddings[captions[part]])) + noise[part],
            "predicted": predicted[part],
            "tokens": tokens[part],
            "weight": weight.expand(count)[part],
        }

    def losses(writer: Writer, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            found = network(widened(batch["x"], network.features))[:, :coordinates]
        e = torch.where(batch["predicted"][:, None], found, batch["e"])
        return writer.losses(e, batch["tokens"], batch["weight"])

    return train(
        writer,
        losses,
        draw,
        make_optimizers(writer, settings),
        TrainerSettings(
            settings.steps,
            settings.batch_size,
            checkpoint_every=settings.checkpoint_every,
            seed=settings.seed,
            name="writer",
        ),
        output / WRITER_CHECKPOINT,
        {
            "settings": {**asdict(settings), "checkpoint_every": None},
            "data": pairs.identity,
            "network": fingerprint(network),
            "latent_noise": latent_noise,
        },
        accelerator,
    )


def make_optimizers(writer: Writer, settings: WriterSettings) -> list[torch.optim.Optimizer]:
    """AdamW, with small steps for what is pretrained."""
    rate = LEARNING_RATE if settings.model == SMALL else PRETRAINED_LEARNING_RATE
    groups = [
        {"params": list(writer.language.parameters()), "lr": rate},
        {"params": list(writer.projection.parameters()), "lr": LEARNING_RATE},
    ]
    return [torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01)]
