"""The training loop: settings and standardised pairs in, a trained network out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from invcap.captioning.objectives import (
    OBJECTIVES,
    Objective,
    bidirectional_loss,
    caption_loss,
    likelihood_loss,
)
from invcap.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from invcap.training.muon import Muon
from invcap_ext import InvertibleNetwork

OPTIMIZERS = ("muon", "adamw")
LEARNING_RATES = {"muon": 0.04, "adamw": 2e-3}
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class TrainSettings:
    """What decides a trained network, beside its pairs.

    Attributes:
        objective: see `invcap.captioning.objectives`.
        depth: layers of the network.
        negative_slope: of its activations; the inverse amplifies by up to 1 / slope a layer.
        optimizer: "muon" (on the triangular factors, AdamW on the rest) or "adamw".
        learning_rate: peak, of a linear warm-up and a linear decay to zero; None for the
            optimizer's own, `LEARNING_RATES`.
        weight_decay: of the triangular factors.
        batch_size: pairs a step: pictures drawn uniformly, each with one of its captions.
        steps: optimiser steps.
        warmup: share of the steps in which the learning rate rises.
        generation_weight: of the inverse's error beside the caption's ("bidirectional").
        max_norm: gradients are clipped to this norm.
        noise: deviation of what is added to latents ("likelihood" needs it).
        checkpoint_every: steps between checkpoints.
        seed: of weights, batches and noise.
    """

    objective: Objective = "bidirectional"
    depth: int = 5
    negative_slope: float = 0.7
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float | None = None
    weight_decay: float = 0.0
    batch_size: int = 512
    steps: int = 2100
    warmup: float = 0.03
    generation_weight: float = 4.0
    max_norm: float = 1.0
    noise: float = 0.0
    checkpoint_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("objective", OBJECTIVES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        for name in ("depth", "batch_size", "steps", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.objective == "likelihood" and not self.noise > 0:
            raise ValueError(f"noise must be above 0 for 'likelihood', got {self.noise}")


class TrainingDivergedError(RuntimeError):
    """The loss was not finite; the last good checkpoint is kept."""


class Trainee(nn.Module):
    """The network with the one number beside it that training may learn."""

    def __init__(self, features: int, settings: TrainSettings) -> None:
        super().__init__()
        self.network = InvertibleNetwork(
            features, settings.depth, negative_slope=settings.negative_slope
        )
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def losses(self, objective: Objective, x: Tensor, e: Tensor) -> dict[str, Tensor]:
        """The terms of an objective, to be weighted and summed."""
        if objective == "likelihood":
            return likelihood_loss(self.network, x, e, self.log_sigma)
        loss = bidirectional_loss if objective == "bidirectional" else caption_loss
        return loss(self.network, x, e)


def train_network(
    latents: Tensor,
    embeddings: Tensor,
    captions_of: CaptionsOf,
    settings: TrainSettings,
    output: Path,
    resume: bool = False,
    data_fingerprint: str = "",
    on_step: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
) -> tuple[Trainee, Progress]:
    """Trains a network on standardised pairs, with a checkpoint in `output` every so often.

    Every random draw depends on the seed and the step alone, so that a run that was killed and
    resumed ends with the same weights as one that was not.

    Args:
        latents: (N, n), or (N, V, n) with V variants of each picture, of which steps draw one.
        embeddings: (M, n).
        captions_of: which captions each picture has.
        resume: go on from the checkpoint in `output`, if there is one.
        data_fingerprint: goes into the checkpoint; resuming with another one is refused.
        on_step: called with (steps done, losses) after each step.

    Raises:
        TrainingDivergedError: a loss is not finite.
        ValueError: the checkpoint belongs to other settings or data.
    """
    torch.manual_seed(settings.seed)
    trainee = Trainee(latents.shape[-1], settings)
    optimizers = _optimizers(trainee, settings)
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    identity = {"settings": json.dumps(asdict(settings)), "data": data_fingerprint}
    weights = {"generation": settings.generation_weight}
    path = output / CHECKPOINT
    progress = Progress()
    if resume and path.exists():
        progress = load_checkpoint(path, trainee, optimizers, identity)
    while progress.step < settings.steps:
        x, e = _batch(latents, embeddings, captions_of, settings, progress.step)
        losses = trainee.losses(settings.objective, x, e)
        loss = sum(weights.get(name, 1.0) * value for name, value in losses.items())
        if not loss.isfinite():
            raise TrainingDivergedError(
                f"the loss is {loss.item()} at step {progress.step + 1}; try a smaller "
                f"learning rate; the last good checkpoint is {path if path.exists() else 'none'}"
            )
        trainee.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), settings.max_norm)
        factor = _schedule(progress.step, settings)
        for group, peak in zip(_groups(optimizers), peaks, strict=True):
            group["lr"] = peak * factor
        for optimizer in optimizers:
            optimizer.step()
        progress.step += 1
        values = {name: value.item() for name, value in losses.items()}
        for name, value in values.items():
            progress.history.setdefault(name, []).append(value)
        on_step(progress.step, values)
        if progress.step % settings.checkpoint_every == 0 or progress.step == settings.steps:
            save_checkpoint(path, trainee, optimizers, progress, identity)
    return trainee, progress


class CaptionsOf:
    """For each picture, the captions it has: picture, caption (P,) as in `Pairs`."""

    def __init__(self, picture: Tensor, caption: Tensor) -> None:
        self.caption = caption
        self.count = torch.bincount(picture)
        self.first = self.count.cumsum(0) - self.count

    def draw(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Draws one caption of each of `pictures`."""
        share = torch.rand(len(pictures), generator=generator)
        return self.caption[self.first[pictures] + (share * self.count[pictures]).long()]


def _batch(
    latents: Tensor,
    embeddings: Tensor,
    captions_of: CaptionsOf,
    settings: TrainSettings,
    step: int,
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed((settings.seed << 32) + step)
    pictures = torch.randint(len(latents), (settings.batch_size,), generator=generator)
    e = embeddings[captions_of.draw(pictures, generator)]
    x = latents[pictures]
    if x.ndim == 3:
        variant = torch.randint(x.shape[1], (len(x),), generator=generator)
        x = x[torch.arange(len(x)), variant]
    if settings.noise:
        x = x + settings.noise * torch.randn(x.shape, generator=generator)
    return x, e


def _optimizers(trainee: Trainee, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    factors = [layer.lu for layer in trainee.network.layers]
    rest = [*(layer.bias for layer in trainee.network.layers), trainee.log_sigma]
    lr = settings.learning_rate or LEARNING_RATES[settings.optimizer]
    adamw = LEARNING_RATES["adamw"]
    if settings.optimizer == "muon":
        return [
            Muon(factors, lr, weight_decay=settings.weight_decay),
            torch.optim.AdamW(rest, adamw, betas=(0.9, 0.99), weight_decay=0),
        ]
    groups = [
        {"params": factors, "weight_decay": settings.weight_decay},
        {"params": rest, "weight_decay": 0},
    ]
    return [torch.optim.AdamW(groups, lr, betas=(0.9, 0.99))]


def _groups(optimizers: list[torch.optim.Optimizer]) -> list[dict]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def _schedule(step: int, settings: TrainSettings) -> float:
    warmup = max(1, round(settings.warmup * settings.steps))
    return min((step + 1) / warmup, 1 - step / settings.steps)
