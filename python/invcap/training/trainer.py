"""One training loop for everything that is trained, on any device and any number of processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from invcap.checks import check_at_least, check_fraction
from invcap.training.checkpoint import Progress, load_checkpoint, save_checkpoint

LOGGED_EVERY = 25

Batch = dict[str, Tensor]
Draw = Callable[[torch.Generator, slice], Batch]
Loss = Callable[[Any, Batch], dict[str, Tensor]]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class TrainerSettings:
    """How a module is trained.

    Attributes:
        steps: optimizer steps.
        batch_size: examples a step, whatever the number of processes.
        warmup: share of the steps in which the learning rates rise, linearly; 0 for none.
        decay: share of the steps, at the end, in which they fall, linearly to zero; 0 for none.
        average: decay of the moving average of the weights; 0 for none.
        max_norm: gradients are clipped to this norm.
        gradient_accumulation: parts that a process computes its share of a batch in.
        weights: of the terms of the loss; 1 where none is given.
        checkpoint_every: steps between checkpoints.
        seed: of batches and noise.
        name: what the progress bar and messages call the training.
    """

    steps: int
    batch_size: int
    warmup: float = 0.03
    decay: float = 1.0
    average: float = 0.0
    max_norm: float = 1.0
    gradient_accumulation: int = 1
    weights: Mapping[str, float] = field(default_factory=dict)
    checkpoint_every: int = 250
    seed: int = 0
    name: str = "training"

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "gradient_accumulation", "checkpoint_every")
        check_at_least(self, 1, *counts)
        check_fraction(self, "warmup", "decay")
        check_fraction(self, "average", one=False)
        if not self.max_norm > 0:
            raise ValueError(f"max_norm must be above 0, got {self.max_norm}")
        if not -(2**31) <= self.seed < 2**31:
            raise ValueError(f"seed must be from -2^31 to below 2^31, got {self.seed}")

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that must not change when a run resumes."""
        free = ("gradient_accumulation", "checkpoint_every", "name")
        return {name: value for name, value in asdict(self).items() if name not in free}


class TrainingDivergedError(RuntimeError):
    """A loss or a weight is not finite; the last good checkpoint is kept."""


@dataclass(frozen=True)
class Trained(Generic[Module]):
    """What `train` returns.

    Attributes:
        module: as the last step left it, in evaluation mode.
        average: its moving average, or the module itself if none was asked for.
        history: name of a term of the loss -> its value at each step.
    """

    module: Module
    average: Module
    history: dict[str, list[float]]


class LossModule(nn.Module):
    """A module with its loss as forward pass: what is wrapped for many processes and autocast."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module = module
        self.loss = loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.loss(self.module, batch)


def train(
    module: Module,
    loss: Loss,
    draw: Draw,
    optimizers: Sequence[torch.optim.Optimizer],
    settings: TrainerSettings,
    path: Path,
    identity: Mapping[str, Any],
    accelerator: Accelerator,
) -> Trained[Module]:
    """Trains a module in place, from the checkpoint at `path` if there is one.

    Every random draw depends on the seed and the step alone, and every process draws the whole
    batch's before it takes its part. So a run that was killed and resumed ends with the weights of
    one that was not, and the number of processes changes rounding only. Parameters that no
    optimizer holds stay as they are.

    Args:
        loss: terms of the loss, each a mean over the examples of a batch.
        draw: a batch's examples `part`, on the CPU, drawn from a generator; called in a thread of
            its own while the step before is computed.
        optimizers: of the module's parameters, with their peak learning rates.
        path: of the checkpoint, in a folder that all processes share.
        identity: what a checkpoint must have been made with beside the settings, as JSON has it.
        accelerator: the device, the precision and the processes; see `start_processes`.

    Raises:
        TrainingDivergedError: a loss or a weight is not finite.
        ValueError: the checkpoint belongs to another run, or a batch is too small; see
            `check_batch_size`.
    """
    check_batch_size(settings.batch_size, settings.gradient_accumulation, accelerator)
    identity = {**identity, "training": settings.identity}
    held = {p for optimizer in optimizers for g in optimizer.param_groups for p in g["params"]}
    for parameter in module.parameters():
        parameter.requires_grad_(parameter in held)
    forward = accelerator.prepare(LossModule(module.to(accelerator.device), loss))
    average = copy.deepcopy(module).requires_grad_(False).eval() if settings.average else None
    progress, scaler = Progress(), accelerator.scaler
    if path.exists():
        progress = load_checkpoint(path, module, average, optimizers, scaler, identity)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group["lr"] for group in groups]
    mine = _parts(settings, accelerator)
    shares = [(part.stop - part.start) / settings.batch_size for part in mine]
    losses: list[dict[str, Tensor]] = []
    module.train()
    with (
        tqdm(
            total=settings.steps,
            initial=progress.step,
            desc=settings.name,
            disable=not accelerator.is_local_main_process,
        ) as bar,
        closing(_draw_ahead(draw, mine, progress.step, settings)) as drawn,
    ):
        for parts in drawn:
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * _schedule(progress.step, settings)
            batches = (
                {name: value.to(accelerator.device) for name, value in part.items()}
                for part in parts
            )
            losses.append(take_step(forward, batches, shares, optimizers, settings, accelerator))
            progress.step += 1
            if average is not None:
                _follow(
                    average, module, min(settings.average, progress.step / (progress.step + 10))
                )
            last = progress.step == settings.steps
            saves = last or progress.step % settings.checkpoint_every == 0
            if saves or progress.step % LOGGED_EVERY == 0:
                _record(losses, progress, settings, path, accelerator, bar)
                losses = []
            if saves:
                _check_weights(module, progress, settings, path)
            if saves and accelerator.is_main_process:
                save_checkpoint(path, module, average, optimizers, scaler, progress, identity)
    accelerator.wait_for_everyone()
    module.eval()
    return Trained(module, module if average is None else average, progress.history)


def check_batch_size(batch_size: int, gradient_accumulation: int, accelerator: Accelerator) -> None:
    """Raises ValueError unless every part of a batch, on every process, has an example."""
    count = accelerator.num_processes * gradient_accumulation
    if count > batch_size:
        raise ValueError(
            f"batch_size must be at least {count}, processes x gradient_accumulation, got "
            f"{batch_size}"
        )


def take_step(
    forward: Callable[[Batch], dict[str, Tensor]],
    batches: Iterable[Batch],
    shares: Sequence[float],
    optimizers: Sequence[torch.optim.Optimizer],
    settings: TrainerSettings,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """One step of the optimizers; nothing leaves the device.

    Args:
        forward: a `LossModule`, as prepared.
        batches: this process's parts of the batch.
        shares: of the whole batch, that each part is.

    Returns:
        This process's share of each term of the loss: their sum over processes is the mean.
    """
    terms: dict[str, Tensor] = {}
    for number, (batch, share) in enumerate(zip(batches, shares, strict=True), 1):
        last = number == len(shares)
        with nullcontext() if last else accelerator.no_sync(forward):
            losses = forward(batch)
            total = sum(settings.weights.get(name, 1.0) * term for name, term in losses.items())
            # Gradients are averaged over processes, so that each part counts by its share.
            scaled = total * (share * accelerator.num_processes)
            (accelerator.scaler.scale(scaled) if accelerator.scaler else scaled).backward()
        for name, term in losses.items():
            terms[name] = terms.get(name, 0.0) + share * term.detach()
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    if accelerator.scaler:
        for optimizer in optimizers:
            accelerator.scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(parameters, settings.max_norm)
    for optimizer in optimizers:
        accelerator.scaler.step(optimizer) if accelerator.scaler else optimizer.step()
        optimizer.zero_grad()
    if accelerator.scaler:
        accelerator.scaler.update()
    return terms


def _parts(settings: TrainerSettings, accelerator: Accelerator) -> list[slice]:
    """This process's slices of a batch."""
    count = accelerator.num_processes * settings.gradient_accumulation
    bounds = [settings.batch_size * number // count for number in range(count + 1)]
    first = accelerator.process_index * settings.gradient_accumulation
    return [
        slice(bounds[number], bounds[number + 1])
        for number in range(first, first + settings.gradient_accumulation)
    ]


def _draw_ahead(
    draw: Draw, parts: Sequence[slice], first: int, settings: TrainerSettings
) -> Generator[list[Batch]]:
    """This process's parts of every batch from a step on, each drawn while the last is computed."""

    def drawn(step: int) -> list[Batch]:
        seed = (settings.seed << 32) + step
        return [draw(torch.Generator().manual_seed(seed), part) for part in parts]

    with ThreadPoolExecutor(1) as thread:
        submitted = (thread.submit(drawn, step) for step in range(first, settings.steps))
        following = next(submitted, None)
        while following:
            batches, following = following.result(), next(submitted, None)
            yield batches


def _record(
    losses: Sequence[dict[str, Tensor]],
    progress: Progress,
    settings: TrainerSettings,
    path: Path,
    accelerator: Accelerator,
    bar: tqdm,
) -> None:
    """Moves the losses of the last steps from the device to history, progress bar and logs."""
    names = list(losses[0])
    values = torch.stack([torch.stack([terms[name].float() for name in names]) for terms in losses])
    rows = accelerator.reduce(values, "sum").tolist()
    for step, row in enumerate(rows, progress.step - len(rows) + 1):
        for name, value in zip(names, row, strict=True):
            if not isfinite(value):
                raise _diverged(f"the loss is {value} at step {step}", settings, path)
            progress.history.setdefault(name, []).append(value)
        accelerator.log(
            {f"loss/{name}": value for name, value in zip(names, row, strict=True)}, step=step
        )
    shown = {name: f"{value:.4f}" for name, value in zip(names, rows[-1], strict=True)}
    bar.set_postfix(shown, refresh=False)
    bar.update(progress.step - bar.n)


def _check_weights(
    module: nn.Module, progress: Progress, settings: TrainerSettings, path: Path
) -> None:
    finite = [weight.isfinite().all() for weight in module.parameters()]
    if not torch.stack(finite).all():
        raise _diverged(f"a weight is not finite after step {progress.step}", settings, path)


def _diverged(what: str, settings: TrainerSettings, path: Path) -> TrainingDivergedError:
    kept = path if path.exists() else "none"
    return TrainingDivergedError(
        f"{settings.name}: {what}; try a smaller learning rate; the last good checkpoint is {kept}"
    )


def _schedule(step: int, settings: TrainerSettings) -> float:
    rising = (step + 1) / max(1, round(settings.warmup * settings.steps))
    falling = (1 - step / settings.steps) / settings.decay if settings.decay else 1.0
    return min(1.0, rising, falling)


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    for slow, fast in zip(average.parameters(), module.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
    for copied, buffer in zip(average.buffers(), module.buffers(), strict=True):
        copied.copy_(buffer)
