"""The state of an inversion, one row for each image: what the next step depends on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invcap.files import read_tensors, write_tensors
from invcap.hashing import check_identity


@dataclass
class State:
    """The vectors of P images, (P, N, d) each, and the state of their optimization, (P,) each.

    Attributes:
        vectors: what is optimized, float32.
        unit: root mean square of the vectors at the start, without zeros; steps are relative to
            it.
        momentum, square: Adam's averages of gradients and of their squares.
        average: moving average of `vectors`.
        best: the vectors (or average) with the highest held-out bound.
        best_bound, best_error, best_step: that bound, its standard error, and its step.
        updates: Adam's steps since its averages were last reset.
        rate: factor on the learning rate.
        norm: running mean of the gradient's norm; 0 before the first step.
        stale: measurements since the best.
        rollbacks: number of resets to the best state.
        active: images that have not stopped.
        running: images that are computed: those that were active at the last measurement.
        taken: steps taken before stopping.
        evaluations: number of denoiser evaluations.
        step: steps done.
        training: (steps, P) float64, each step's estimate of the bound from its own samples.
        evaluated: steps after which the held-out bound was measured.
        held_out: (len(evaluated), P) float64, that bound; NaN for images that had stopped.
        snapshots: steps done -> (P, N, d), the vectors at that step.
    """

    vectors: Tensor
    unit: Tensor
    momentum: Tensor
    square: Tensor
    average: Tensor
    best: Tensor
    best_bound: Tensor
    best_error: Tensor
    best_step: Tensor
    updates: Tensor
    rate: Tensor
    norm: Tensor
    stale: Tensor
    rollbacks: Tensor
    active: Tensor
    running: Tensor
    taken: Tensor
    evaluations: Tensor
    step: int = 0
    training: list[Tensor] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)
    held_out: list[Tensor] = field(default_factory=list)
    snapshots: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, vectors: Tensor) -> State:
        """The state before the first step, from vectors (P, N, d)."""
        number = torch.zeros(len(vectors), dtype=torch.float64, device=vectors.device)
        count = number.long()
        return cls(
            vectors=vectors.clone(),
            unit=root_mean_square(vectors),
            momentum=torch.zeros_like(vectors),
            square=torch.zeros_like(vectors),
            average=vectors.clone(),
            best=vectors.clone(),
            best_bound=number - torch.inf,
            best_error=number + torch.nan,
            best_step=count.clone(),
            updates=count.clone(),
            rate=torch.ones_like(vectors[:, 0, 0]),
            norm=torch.zeros_like(vectors[:, 0, 0]),
            stale=count.clone(),
            rollbacks=count.clone(),
            active=count == 0,
            running=count == 0,
            taken=count.clone(),
            evaluations=count.clone(),
        )

    def put(self, rows: Tensor, chosen: Tensor, **values: Tensor) -> None:
        """Replaces attributes of some images.

        Args:
            rows: (A,), images.
            chosen: (A,) bool, which of them are changed.
            values: name of an attribute -> its new values, (A, ...).
        """
        for name, new in values.items():
            tensor = getattr(self, name)
            mask = chosen.view(-1, *[1] * (new.ndim - 1))
            tensor[rows] = torch.where(mask, new, tensor[rows])

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Writes the state atomically, with the identity of its inversion."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        tensors["training"] = _stacked(self.training, self.best_bound)
        tensors["held_out"] = _stacked(self.held_out, self.best_bound)
        tensors["evaluated"] = torch.tensor(self.evaluated, dtype=torch.int64)
        for step, vectors in self.snapshots.items():
            tensors[f"snapshots.{step}"] = vectors
        write_tensors(path, tensors, step=str(self.step), identity=json.dumps(identity))

    @classmethod
    def load(cls, path: Path, identity: dict[str, Any], device: torch.device) -> State:
        """Reads what `save` wrote, onto a device.

        Raises:
            ValueError: the file is missing or broken, or belongs to another inversion.
        """
        tensors, metadata = read_tensors(path)
        if not ({"step", "identity"} <= metadata.keys() and {*TENSORS} <= tensors.keys()):
            raise ValueError(f"{path}: not a checkpoint of an inversion")
        check_identity(path, json.loads(metadata["identity"]), json.loads(json.dumps(identity)))
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        return cls(
            **{name: tensors[name] for name in TENSORS},
            step=int(metadata["step"]),
            training=list(tensors["training"]),
            evaluated=tensors["evaluated"].tolist(),
            held_out=list(tensors["held_out"]),
            snapshots={
                int(name.removeprefix("snapshots.")): value
                for name, value in tensors.items()
                if name.startswith("snapshots.")
            },
        )


TENSORS = [f.name for f in fields(State) if f.type == "Tensor"]


def root_mean_square(vectors: Tensor) -> Tensor:
    """Root mean square of the nonzero numbers of each row (P, ...), (P,); 0 if all are zero."""
    rows = vectors.flatten(1)
    share = (rows != 0).float().mean(1).clamp(min=1 / rows.shape[1])
    return (rows.square().mean(1) / share).sqrt()


def _stacked(rows: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(rows) if rows else like.new_empty(0, len(like))
