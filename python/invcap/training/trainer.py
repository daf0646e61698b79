"""A training loop that goes on exactly where it was killed."""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn
from tqdm import tqdm

from invcap.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from invcap.training.muon import Muon

logger = logging.getLogger(__name__)
LOGGED_EVERY = 100


@dataclass(frozen=True)
class FitSettings:
    """How weights are fitted.

    Attributes:
        steps: optimiser steps.
        learning_rate: of Muon, on matrices and convolutions; it rises, stays, and falls to zero.
        adamw_learning_rate: of AdamW, on embeddings, norms and biases.
        warmup: steps in which the learning rate rises.
        decay: share of the steps, at the end, in which it falls.
        average: decay of the moving average of weights, which is what is used.
        max_norm: gradients are clipped to this norm.
        checkpoint_seconds: between checkpoints.
        seed: of weights, batches and noise.
    """

    steps: int
    learning_rate: float = 0.02
    adamw_learning_rate: float = 2e-3
    warmup: int = 50
    decay: float = 0.3
    average: float = 0.995
    max_norm: float = 1.0
    checkpoint_seconds: float = 60.0
    seed: int = 0


def fit(
    module: nn.Module,
    loss_at: Callable[[nn.Module, torch.Generator], Tensor],
    settings: FitSettings,
    path: Path,
    identity: dict[str, str],
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    optimizers: Sequence[torch.optim.Optimizer] | None = None,
) -> nn.Module:
    """Trains a module in place, with a checkpoint at `path`, from which it goes on if there is one.

    Every random draw depends on the seed and the step alone. A longer run may go on from a shorter
    one's checkpoint: until the decay, their steps are the same.

    Args:
        loss_at: the loss of the module, on a batch drawn from the generator.
        identity: what a checkpoint must have been made with.
        on_step: called with (steps done, loss) after each step.
        optimizers: with their peak learning rates; by default Muon on matrices and convolutions,
            and AdamW on the rest.

    Returns:
        The moving average of the module, in evaluation mode.

    Raises:
        FloatingPointError: the loss is not finite.
        ValueError: the checkpoint belongs to another run.
    """
    average = copy.deepcopy(module).requires_grad_(False).eval()
    both = nn.ModuleDict({"module": module, "average": average})
    optimizers = list(optimizers or _optimizers(module, settings))
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    progress = Progress()
    if path.exists():
        progress = load_checkpoint(path, both, optimizers, identity)
    module.train()
    saved = time.monotonic()
    while progress.step < settings.steps:
        generator = torch.Generator().manual_seed((settings.seed << 32) + progress.step)
        loss = loss_at(module, generator)
        if not loss.isfinite():
            raise FloatingPointError(f"the loss is {loss.item()} at step {progress.step + 1}")
        module.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), settings.max_norm)
        factor = _schedule(progress.step, settings)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * factor
        for optimizer in optimizers:
            optimizer.step()
        progress.step += 1
        _follow(average, module, min(settings.average, progress.step / (progress.step + 10)))
        progress.history.setdefault("loss", []).append(loss.item())
        on_step(progress.step, loss.item())
        if (
            progress.step == settings.steps
            or time.monotonic() - saved > settings.checkpoint_seconds
        ):
            save_checkpoint(path, both, optimizers, progress, identity)
            saved = time.monotonic()
    module.eval()
    return average


def shown(bar: tqdm) -> Callable[[int, float], None]:
    """Shows steps and the mean of the last losses on a bar, and logs them now and then."""
    losses: deque[float] = deque(maxlen=LOGGED_EVERY)

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        bar.update(step - bar.n)
        bar.set_postfix(loss=f"{fmean(losses):.4f}", refresh=False)
        if step % LOGGED_EVERY == 0:
            logger.info("%s: step %d, loss %.4f", bar.desc, step, fmean(losses))

    return on_step


def read_average(module: nn.Module, path: Path, identity: dict[str, str]) -> int:
    """Loads the moving average in a checkpoint of `fit` into a module; returns its step."""
    both = nn.ModuleDict({"module": copy.deepcopy(module), "average": module})
    return load_checkpoint(path, both, [], identity).step


def _optimizers(module: nn.Module, settings: FitSettings) -> list[torch.optim.Optimizer]:
    embeddings = {m.weight for m in module.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in module.parameters() if p.ndim > 1 and p not in embeddings]
    rest = [p for p in module.parameters() if p.ndim == 1 or p in embeddings]
    return [
        Muon(matrices, settings.learning_rate),
        torch.optim.AdamW(rest, settings.adamw_learning_rate, betas=(0.9, 0.99), weight_decay=0),
    ]


def _schedule(step: int, settings: FitSettings) -> float:
    rising = (step + 1) / settings.warmup
    falling = (1 - step / settings.steps) / settings.decay
    return min(1.0, rising, falling)


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    for slow, fast in zip(average.parameters(), module.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
