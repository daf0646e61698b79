"""Fingerprints of weights, pixels and text, which identify what a file belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TOLERANCE = 1e-3
LARGE = 256


def fingerprint(module: nn.Module) -> str:
    """A hash of a module's weights: equal hashes, equal outputs."""
    digest = hashlib.sha256(type(module).__name__.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def signature(network: nn.Module) -> list[float]:
    """Norms of a network's large weights, by which models of the same shape are distinguished.

    Unlike a hash, norms hardly change when weights are rounded to half precision.
    """
    return [
        weight.float().norm().item() for weight in network.parameters() if weight.numel() >= LARGE
    ]


def same_signature(one: list[float], other: list[float]) -> bool:
    """Whether two signatures are of one network, up to rounding of its weights."""
    return len(one) == len(other) and all(
        abs(a - b) <= TOLERANCE * max(abs(a), abs(b)) for a, b in zip(one, other, strict=True)
    )


def digest(*parts: str | np.ndarray | Tensor) -> str:
    """A short hash of texts and arrays, in their order."""
    hashed = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            hashed.update(part.encode() + b"\0")
        else:
            hashed.update(np.ascontiguousarray(part).data)
    return hashed.hexdigest()[:32]


def check_identity(path: Path, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the first difference, unless a file is of the run that asks."""
    for name in {**saved, **asked}:
        had, wants = saved.get(name), asked.get(name)
        if isinstance(had, dict) and isinstance(wants, dict):
            check_identity(path, had, wants)
        elif had != wants:
            raise ValueError(
                f"{path}: cannot resume: {name} differs: the file has {had}, this run {wants}"
            )
