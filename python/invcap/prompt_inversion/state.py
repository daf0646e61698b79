"""The state of an inversion: everything that the next step depends on, one row a picture."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from invcap.files import read_tensors, write_tensors


@dataclass
class State:
    """P pictures' vectors, (P, N, d) each, and how their optimisation goes, (P,) each.

    Attributes:
        vectors: what is optimised, float32.
        momentum, square: Adam's averages of gradients and of their squares.
        average: moving average of `vectors`.
        best: the vectors (or average) with the highest held-out bound.
        best_bound, best_error, best_step: that bound, its standard error, after how many steps.
        updates: of Adam since it was last reset.
        rate: factor on the learning rate.
        norm: running mean of the gradient's norm; 0 before the first.
        stale: evaluations since the best.
        rollbacks: returns to the best so far.
        active: pictures that have not stopped.
        taken: steps before they did.
        evaluations: of the UNet.
        step: steps done.
        training: (steps, P) float64, the bound as each step's own draws estimate it.
        evaluated: steps after which the held-out bound was measured.
        held_out: (len(evaluated), P) float64, that bound; NaN for pictures that had stopped.
        snapshots: steps done -> (P, N, d), the vectors then.
    """

    vectors: Tensor
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
        pictures = len(vectors)
        count = torch.zeros(pictures, dtype=torch.int64)
        return cls(
            vectors=vectors.clone(),
            momentum=torch.zeros_like(vectors),
            square=torch.zeros_like(vectors),
            average=vectors.clone(),
            best=vectors.clone(),
            best_bound=torch.full((pictures,), -torch.inf, dtype=torch.float64),
            best_error=torch.full((pictures,), torch.nan, dtype=torch.float64),
            best_step=count.clone(),
            updates=count.clone(),
            rate=torch.ones(pictures),
            norm=torch.zeros(pictures),
            stale=count.clone(),
            rollbacks=count.clone(),
            active=torch.ones(pictures, dtype=torch.bool),
            taken=count.clone(),
            evaluations=count.clone(),
        )

    def save(self, path: Path, identity: dict[str, str]) -> None:
        """Writes all of it, replacing the file at once; `identity` says what it belongs to."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        tensors["training"] = _stacked(self.training, len(self.vectors))
        tensors["held_out"] = _stacked(self.held_out, len(self.vectors))
        tensors["evaluated"] = torch.tensor(self.evaluated, dtype=torch.int64)
        for step, vectors in self.snapshots.items():
            tensors[f"snapshots.{step}"] = vectors
        write_tensors(path, tensors, step=str(self.step), identity=json.dumps(identity))

    @classmethod
    def load(cls, path: Path, identity: dict[str, str]) -> State:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is missing or broken, or belongs to another inversion.
        """
        tensors, metadata = read_tensors(path)
        if not {"step", "identity"} <= metadata.keys():
            raise ValueError(f"{path}: not a checkpoint of an inversion")
        saved = json.loads(metadata["identity"])
        for name, value in identity.items():
            if saved.get(name) != value:
                raise ValueError(
                    f"{path}: cannot go on with another {name}: the checkpoint has "
                    f"{saved.get(name)}, this inversion {value}"
                )
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


def _stacked(rows: list[Tensor], width: int) -> Tensor:
    return torch.stack(rows) if rows else torch.empty(0, width, dtype=torch.float64)
