"""The state of an inversion: everything that the next step depends on, one row for each image."""

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
    """P images' vectors, (P, N, d) each, and how their optimization goes, (P,) each.

    Attributes:
        vectors: what is optimized, float32.
        unit: root mean square of the vectors at the start, zeros left out; steps are relative to
            it.
        momentum, square: Adam's averages of gradients and of their squares.
        average: moving average of `vectors`.
        best: the vectors (or average) with the highest held-out bound.
        best_bound, best_error, best_step: that bound, its standard error, after how many steps.
        updates: of Adam since it was last reset.
        rate: factor on the learning rate.
        norm: running mean of the gradient's norm; 0 before the first.
        stale: measurements since the best.
        rollbacks: returns to the best so far.
        active: images that have not stopped.
        running: images that are computed on: those that were active at the last measurement.
        taken: steps before they did.
        evaluations: of the denoiser.
        step: steps done.
        training: (steps, P) float64, the bound as each step's own draws estimate it.
        evaluated: steps after which the held-out bound was measured.
        held_out: (len(evaluated), P) float64, that bound; NaN for images that had stopped.
        snapshots: steps done -> (P, N, d), the vectors then.
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
        """Replaces what some images have.

        Args:
            rows: (A,), images.
            chosen: (A,) bool, which of them are changed.
            values: name of an attribute -> (A, ...), its new values.
        """
        for name, new in values.items():
            tensor = getattr(self, name)
            mask = chosen.view(-1, *[1] * (new.ndim - 1))
            tensor[rows] = torch.where(mask, new, tensor[rows])

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Writes all of it, replacing the file at once; `identity` says what it belongs to."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        tensors["training"] = _stacked(self.training, self.best_bound)
        tensors["held_out"] = _stacked(self.held_out, self.best_bound)
        tensors["evaluated"] = torch.tensor(self.evaluated, dtype=torch.int64)
        for step, vectors in self.snapshots.items():
            tensors[f"snapshots.{step}"] = vectors
        write_tensors(path, tensors, step=str(self.step), identity=json.dumps(identity))

    @classmethod
    def load(cls, path: Path, identity: dict[str, Any], device: torch.device) -> State:
        """Reads what `save` wrote, to a device.

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
    """Of the numbers of each of P vectors (P, ...) that are not 0, (P,); 0 where all are."""
    rows = vectors.flatten(1)
    share = (rows != 0).float().mean(1).clamp(min=1 / rows.shape[1])
    return (rows.square().mean(1) / share).sqrt()


def _stacked(rows: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(rows) if rows else like.new_empty(0, len(like))
