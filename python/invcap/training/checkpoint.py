"""Training state as one safetensors file, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invcap.files import read_tensors, write_tensors
from invcap.hashing import check_identity


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        step: optimizer steps done.
        history: name of a term of the loss -> its value at each step.
    """

    step: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    module: nn.Module,
    average: nn.Module | None,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler | None,
    progress: Progress,
    identity: Mapping[str, Any],
) -> None:
    """Writes all that a run needs to resume, replacing the file at once.

    Args:
        average: moving average of the module, if there is one.
        scaler: of gradients in float16.
        identity: what must be the same for the run to resume: settings, data.
    """
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{i}.{parameter}.{name}"] = value
    for name, values in progress.history.items():
        tensors[f"history.{name}"] = torch.tensor(values, dtype=torch.float64)
    write_tensors(
        path,
        tensors,
        step=str(progress.step),
        identity=json.dumps(identity),
        scaler=json.dumps(scaler.state_dict() if scaler else None),
    )


def load_checkpoint(
    path: Path,
    module: nn.Module,
    average: nn.Module | None,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler | None,
    identity: Mapping[str, Any],
) -> Progress:
    """Puts back what `save_checkpoint` wrote.

    Raises:
        ValueError: the file is missing or broken, or belongs to a run with another identity.
    """
    tensors, metadata = read_tensors(path)
    if not {"step", "identity", "scaler"} <= metadata.keys():
        raise ValueError(f"{path}: not a checkpoint of a training run")
    check_identity(path, json.loads(metadata["identity"]), json.loads(json.dumps(identity)))
    module.load_state_dict(_under(tensors, "module."))
    if average is not None:
        average.load_state_dict(_under(tensors, "average."))
    for i, optimizer in enumerate(optimizers):
        parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, f"optimizer.{i}.").items():
            number, name = key.split(".", 1)
            state.setdefault(int(number), {})[name] = _laid_out_as(parameters[int(number)], value)
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    saved = json.loads(metadata["scaler"])
    if scaler is not None and saved is not None:
        scaler.load_state_dict(saved)
    history = {name: values.tolist() for name, values in _under(tensors, "history.").items()}
    return Progress(int(metadata["step"]), history)


def _laid_out_as(weight: Tensor, value: Tensor) -> Tensor:
    """A value in the memory layout of a weight of its shape, since rounding may depend on it."""
    if value.shape != weight.shape:
        return value
    return torch.empty_like(weight, dtype=value.dtype, device=value.device).copy_(value)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
