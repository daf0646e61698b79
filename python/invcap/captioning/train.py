"""Training of the network: settings and pairs in, a trained network out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from invcap.captioning.objectives import (
    OBJECTIVES,
    Objective,
    likelihood_loss,
    pair_losses,
    widened,
)
from invcap.captioning.pairs import Pairs
from invcap.captioning.residual import draw_directions
from invcap.captioning.scaler import Scaler
from invcap.checks import check_at_least, check_finite
from invcap.training.muon import Muon
from invcap.training.trainer import Batch, Trained, TrainerSettings, train
from invcap_ext import InvertibleNetwork

OPTIMIZERS = ("muon", "adamw")
LEARNING_RATES = {"muon": 0.04, "adamw": 2e-3}
CHECKPOINT = "checkpoint.safetensors"
ROBUST_NOISE = 0.15
VARIATION_NOISE = 0.2
DIRECTIONS = 256
AVERAGED = 4


@dataclass(frozen=True)
class TrainSettings:
    """Settings that, with the pairs, determine a trained network.

    Attributes:
        objective: see `invcap.captioning.objectives`.
        depth: layers of the network.
        padding: zeros beside each latent, by which the network is wider.
        negative_slope: of its activations; the inverse amplifies by up to 1 / slope a layer.
        optimizer: "muon" (on the triangular factors, AdamW on the rest) or "adamw".
        learning_rate: peak, of a linear warm-up and a linear decay to zero; None for the
            optimizer's own, `LEARNING_RATES`.
        weight_decay: of the triangular factors.
        batch_size: pairs a step: images drawn uniformly, each with one of its captions.
        gradient_accumulation: parts that a process computes its share of a batch in.
        steps: optimizer steps.
        warmup: share of the steps in which the learning rate rises.
        generation_weight: of the inverse's error beside the caption's ("bidirectional").
        contrastive: weight of `contrastive_loss`, of each direction that the objective trains.
        robust_inverse: weight of the error of f^-1(f(x) + v) for normal noise v, so that the
            inverse tolerates small errors; it needs no caption.
        residual: weight of the residual's distance from a unit normal.
        variations: numbers of the residual that the inverse draws by ("bidirectional").
        max_norm: gradients are clipped to this norm.
        noise: deviation of what is added to latents ("likelihood" needs it).
        caption_noise: deviation of what is added to captions before the inverse.
        checkpoint_every: steps between checkpoints.
        seed: of weights, batches and noise.
    """

    objective: Objective = "bidirectional"
    depth: int = 5
    padding: int = 0
    negative_slope: float = 0.7
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float | None = None
    weight_decay: float = 0.0
    batch_size: int = 512
    gradient_accumulation: int = 1
    steps: int = 2100
    warmup: float = 0.03
    generation_weight: float = 4.0
    contrastive: float = 0.0
    robust_inverse: float = 0.0
    residual: float = 1.0
    variations: int = 0
    max_norm: float = 1.0
    noise: float = 0.0
    caption_noise: float = 0.0
    checkpoint_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("objective", OBJECTIVES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        check_at_least(self, 0, "padding", "variations")
        counts = ("batch_size", "gradient_accumulation", "steps", "checkpoint_every")
        check_at_least(self, 1, "depth", *counts)
        weights = ("generation_weight", "contrastive", "robust_inverse", "residual")
        noises = ("noise", "caption_noise")
        check_finite(self, "weight_decay", "warmup", *noises, *weights, above_zero=False)
        check_finite(self, "negative_slope", "learning_rate", "max_norm", above_zero=True)
        if not -(2**31) <= self.seed < 2**31:
            raise ValueError(f"seed must be from -2^31 to below 2^31, got {self.seed}")
        if self.objective == "likelihood" and not self.noise > 0:
            raise ValueError(f"noise must be above 0 for 'likelihood', got {self.noise}")
        if self.variations and self.objective != "bidirectional":
            raise ValueError(
                f"variations must be 0 for {self.objective!r}, which does not train the inverse on "
                f"captions, got {self.variations}"
            )

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms of `pair_losses`."""
        return {
            "generation": self.generation_weight if self.objective == "bidirectional" else 0.0,
            "contrastive": self.contrastive,
            "robust_inverse": self.robust_inverse,
            "residual": self.residual,
        }


SHAPES = TrainSettings(padding=64, contrastive=0.3, steps=1900)
REAL = TrainSettings(
    depth=3,
    padding=384,
    negative_slope=0.5,
    learning_rate=0.03,
    weight_decay=0.1,
    batch_size=1024,
    steps=450,
    generation_weight=1.0,
    contrastive=1.0,
    noise=0.6,
    caption_noise=0.5,
)


def default_settings(data: str, optimizer: str | None = None) -> TrainSettings:
    """The best settings for data, by its name: `shapes`, or real images.

    Args:
        optimizer: that takes the place of theirs, if any: it has a learning rate of its own.
    """
    settings = SHAPES if data == "shapes" else REAL
    if optimizer in (None, settings.optimizer):
        return settings
    return replace(settings, learning_rate=None)


class TrainingModule(nn.Module):
    """The network, and log sigma, the one other number that training may learn."""

    def __init__(self, features: int, settings: TrainSettings) -> None:
        super().__init__()
        self.network = InvertibleNetwork(
            features, settings.depth, negative_slope=settings.negative_slope
        )
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def losses(self, settings: TrainSettings, batch: Batch) -> dict[str, Tensor]:
        """The terms of an objective, to be weighted and summed."""
        if settings.objective == "likelihood":
            x = widened(batch["x"], self.network.features, batch.get("padding"))
            return likelihood_loss(self.network, x, batch["e"], self.log_sigma)
        return pair_losses(self.network, batch, settings.weights)


class Choices:
    """For each number of one side, the numbers of the other side that belong to it.

    Args:
        of, choice: (P,) int64: choice[p] belongs to of[p].
    """

    def __init__(self, of: Tensor, choice: Tensor) -> None:
        order = of.argsort(stable=True)
        self.choice = choice[order]
        self.count = torch.bincount(of)
        self.first = self.count.cumsum(0) - self.count
        self.most = int(self.count.max())

    def draw(self, of: Tensor, generator: torch.Generator) -> Tensor:
        """Draws one for each, (N,)."""
        share = torch.rand(len(of), generator=generator)
        return self.choice[self.first[of] + (share * self.count[of]).long()]

    def draw_some(self, of: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws up to `most` for each, without replacement.

        Returns:
            (N, M), and weights (N, M) that sum to 1 over M and are 0 where there is none.
        """
        count = self.count[of][:, None]
        start = (torch.rand(len(of), 1, generator=generator) * count).long()
        number = torch.arange(min(most, self.most))
        chosen = self.choice[self.first[of][:, None] + (start + number) % count]
        weights = (number < count).float()
        return chosen, weights / weights.sum(1, keepdim=True)


def draw_pairs(
    pairs: Pairs, captions_of: Choices, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws images uniformly, one caption of each, and the row of latents of one variant."""
    images = torch.randint(len(pairs.names), (count,), generator=generator)
    captions = captions_of.draw(images, generator)
    return images, captions, draw_variants(pairs, images, generator)


def draw_variants(pairs: Pairs, images: Tensor, generator: torch.Generator) -> Tensor:
    """Draws the row of latents of one variant of each image."""
    rows = images * pairs.variants
    if pairs.variants > 1:
        rows = rows + torch.randint(pairs.variants, images.shape, generator=generator)
    return rows


def train_network(
    pairs: Pairs,
    latent_scaler: Scaler,
    embedding_scaler: Scaler,
    settings: TrainSettings,
    output: Path,
    accelerator: Accelerator,
) -> Trained[TrainingModule]:
    """Trains a network on pairs, from the checkpoint in `output` if there is one.

    Raises:
        TrainingDivergedError: a loss is not finite.
        ValueError: the checkpoint belongs to other settings or pairs, or a batch has unequal parts.
    """
    features, coordinates = latent_scaler.features, embedding_scaler.features
    width, residual = features + settings.padding, settings.variations or features - coordinates
    check_parts(settings, residual > 0, accelerator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        module = TrainingModule(features + settings.padding, settings)
    captions_of = Choices(pairs.image, pairs.caption)
    images_of = Choices(pairs.caption, pairs.image)
    generates, varied = settings.weights["generation"] > 0, settings.variations > 0
    averages = generates and not varied and images_of.most > 1

    def draw(generator: torch.Generator, part: slice) -> Batch:
        count = settings.batch_size
        images, captions, rows = draw_pairs(pairs, captions_of, count, generator)
        x = latent_scaler(pairs.latents[rows[part]])
        batch = {
            "e": embedding_scaler(pairs.embeddings[captions[part]]),
            "pairs": torch.stack([images, captions], 1)[part],
        }
        if settings.noise:
            noise = settings.noise * torch.randn(count, width, generator=generator)[part]
            x = x + noise[:, :features]
            batch["padding"] = noise[:, features:]
        if settings.caption_noise:
            noise = torch.randn(count, coordinates, generator=generator)
            batch["u"] = settings.caption_noise * noise[part]
        if averages:
            shown, weights = images_of.draw_some(captions, AVERAGED, generator)
            shown, weights = draw_variants(pairs, shown, generator)[part], weights[part]
            several = latent_scaler(pairs.latents[shown.flatten()]).unflatten(0, shown.shape)
            batch["expected"] = (weights[..., None] * several).sum(1)
        if varied:
            noise = torch.randn(count, settings.variations, generator=generator)
            batch["w"] = VARIATION_NOISE * noise[part]
        if settings.robust_inverse:
            batch["v"] = ROBUST_NOISE * torch.randn(count, width, generator=generator)[part]
        if settings.residual and residual:
            batch["z"] = torch.randn(count, residual, generator=generator)[part]
            batch["directions"] = draw_directions((coordinates, residual), DIRECTIONS, generator)
        return batch | {"x": x}

    return train(
        module,
        lambda module, batch: module.losses(settings, batch),
        draw,
        make_optimizers(module, settings),
        TrainerSettings(
            settings.steps,
            settings.batch_size,
            warmup=settings.warmup,
            max_norm=settings.max_norm,
            gradient_accumulation=settings.gradient_accumulation,
            weights=settings.weights,
            checkpoint_every=settings.checkpoint_every,
            seed=settings.seed,
        ),
        output / CHECKPOINT,
        {"settings": identity(settings), "data": pairs.identity},
        accelerator,
    )


def check_parts(settings: TrainSettings, residual: bool, accelerator: Accelerator) -> None:
    """Raises ValueError unless terms over a batch see parts of one size."""
    parts = accelerator.num_processes * settings.gradient_accumulation
    if (settings.contrastive or (residual and settings.residual)) and settings.batch_size % parts:
        raise ValueError(
            f"batch_size must be a multiple of {parts}, processes x gradient_accumulation, for "
            f"terms that compare the rows of a batch, got {settings.batch_size}"
        )


def identity(settings: TrainSettings) -> dict[str, object]:
    """The settings that must be the same when a run resumes."""
    free = ("gradient_accumulation", "checkpoint_every")
    return {name: value for name, value in asdict(settings).items() if name not in free}


def make_optimizers(module: TrainingModule, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """Muon on the triangular factors and AdamW on the rest, or AdamW on all."""
    factors = [layer.lu for layer in module.network.layers]
    rest = [weight for weight in module.network.parameters() if weight.ndim == 1]
    if settings.objective == "likelihood":
        rest.append(module.log_sigma)
    lr = settings.learning_rate or LEARNING_RATES[settings.optimizer]
    if settings.optimizer == "muon":
        return [
            Muon(factors, lr, weight_decay=settings.weight_decay),
            torch.optim.AdamW(rest, LEARNING_RATES["adamw"], betas=(0.9, 0.99), weight_decay=0),
        ]
    groups = [
        {"params": factors, "weight_decay": settings.weight_decay},
        {"params": rest, "weight_decay": 0},
    ]
    return [torch.optim.AdamW(groups, lr, betas=(0.9, 0.99))]
