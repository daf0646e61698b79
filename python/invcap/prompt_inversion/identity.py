"""The identity of an inversion, by which its checkpoint is recognized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.hashing import digest
from invcap.prompt_inversion.settings import InversionSettings
from invcap.prompt_inversion.starts import LearnedStarts, Start


def identity_of(
    learned: LearnedStarts,
    settings: InversionSettings,
    seeds: Sequence[int],
    images: Sequence[Image.Image],
    size: tuple[int, int],
    start: Start,
    over: str,
) -> dict[str, Any]:
    """What determines the result of `PromptInversionPipeline.invert`, as JSON takes it.

    Args:
        learned: the learned starts of the model.
        size: (height, width), in pixels.
    """
    return {
        "settings": asdict(settings),
        "seeds": list(seeds),
        "images": digest(*(np.asarray(image) for image in images)),
        "size": list(size),
        "start": _described(start),
        "over": over,
        "model": learned.model.fingerprint,
        "learned": learned.fingerprint,
    }


def _described(start: Start) -> str:
    if isinstance(start, Tensor):
        return digest(start.float().cpu())
    if isinstance(start, Conditioning):
        return digest(*(tensor.float().cpu() for tensor in start.tensors.values()))
    return str(start)
