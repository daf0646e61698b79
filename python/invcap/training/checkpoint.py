"""Training state as one safetensors file, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from invcap.files import read_tensors, write_tensors


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: optimiser steps done.
        history: name of a loss -> its value at each step.
    """

    step: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
    identity: dict[str, str],
) -> None:
    """Writes all that a run needs to go on, replacing the file at once.

    Args:
        identity: what must be the same for the run to go on: settings, data.
    """
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{i}.{parameter}.{name}"] = value
    for name, values in progress.history.items():
        tensors[f"history.{name}"] = torch.tensor(values, dtype=torch.float64)
    write_tensors(path, tensors, step=str(progress.step), identity=json.dumps(identity))


def load_checkpoint(
    path: Path,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    identity: dict[str, str],
) -> Progress:
    """Puts back what `save_checkpoint` wrote.

    Raises:
        ValueError: the file is missing or broken, or belongs to a run with another identity.
    """
    tensors, metadata = read_tensors(path)
    saved = json.loads(metadata["identity"])
    for name, value in identity.items():
        if saved.get(name) != value:
            raise ValueError(
                f"{path}: cannot go on with another {name}: the checkpoint has "
                f"{saved.get(name)}, this run {value}"
            )
    module.load_state_dict(_under(tensors, "module."))
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, f"optimizer.{i}.").items():
            parameter, name = key.split(".", 1)
            state.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    history = {name: values.tolist() for name, values in _under(tensors, "history.").items()}
    return Progress(int(metadata["step"]), history)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
