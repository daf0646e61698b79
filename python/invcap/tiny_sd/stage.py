"""What the stages of the embedded models' training have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import CLIPTokenizer

from invcap.training.muon import Muon
from invcap.training.trainer import Draw, Loss, Module, TrainerSettings, train

WARMUP = 50


@dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Attributes:
        steps: optimizer steps.
        path: of the checkpoint, whose name is the stage's.
        identity: of the data and of what earlier stages gave: a checkpoint of others is refused.
        accelerator: the device, the precision and the processes.
        seed: of weights, batches and noise.
        checkpoint_every: steps between checkpoints.
    """

    steps: int
    path: Path
    identity: Mapping[str, Any]
    accelerator: Accelerator
    seed: int = 0
    checkpoint_every: int = 250


def train_stage(
    module: Module, loss: Loss, draw: Draw, batch_size: int, stage: Stage, **weights: float
) -> Module:
    """Trains a module at rates that rise for 50 steps, stay, and fall in the last 30%.

    Args:
        weights: of terms of the loss.

    Returns:
        The moving average of the module, in evaluation mode.
    """
    settings = TrainerSettings(
        stage.steps,
        batch_size,
        warmup=min(1.0, WARMUP / stage.steps),
        decay=0.3,
        average=0.995,
        weights=weights,
        checkpoint_every=stage.checkpoint_every,
        seed=stage.seed,
        name=stage.path.stem,
    )
    optimizers = make_optimizers(module)
    return train(
        module, loss, draw, optimizers, settings, stage.path, stage.identity, stage.accelerator
    ).average


def make_optimizers(module: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon on matrices and convolutions, AdamW on embeddings, norms and biases."""
    embeddings = {part.weight for part in module.modules() if isinstance(part, nn.Embedding)}
    matrices = [p for p in module.parameters() if p.ndim > 1 and p not in embeddings]
    rest = [p for p in module.parameters() if p.ndim == 1 or p in embeddings]
    return [Muon(matrices, 0.02), torch.optim.AdamW(rest, 2e-3, betas=(0.9, 0.99), weight_decay=0)]


def token_ids(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids (N, n), padded and cut as diffusers' pipelines do it."""
    return tokenizer(
        list(captions),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
