"""The start of an inversion: a sentence, an embedding, a caption or a learned start."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage
from invcap.hashing import digest
from invcap.prompt_inversion.amortised import AmortisedStart
from invcap.prompt_inversion.axes import load_axes
from invcap.prompt_inversion.embeddings import load_conditioning

Start = str | Sequence[str] | Tensor | Conditioning
LEARNED = ("amortised", "meta")
FOLDER = "starts"


class LearnedStarts:
    """The learned starts and axes of a model; each file is read once.

    Args:
        model: the model.
        folder: of `amortised.safetensors`, `meta.safetensors` and `axes.safetensors`; by default
            `starts` in the model's own folder.

    Raises:
        ValueError: the folder does not exist.
    """

    def __init__(self, model: FrozenTextToImage, folder: str | Path | None = None) -> None:
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"starts: expected a folder of learned starts, got {folder}")
        self.model = model
        self.folder = Path(model.name) / FOLDER if folder is None else Path(folder)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files."""
        files = sorted(self.folder.glob("*.safetensors"))
        return digest(*(np.frombuffer(file.read_bytes(), np.uint8) for file in files))

    @cached_property
    def amortised(self) -> AmortisedStart:
        """The network that maps latents to a prompt in one pass."""
        return AmortisedStart.load(self._path("amortised"), self.model).to(self.model.device)

    @cached_property
    def meta(self) -> Conditioning:
        """One prompt for all images."""
        return load_conditioning(self._path("meta"), self.model)

    @cached_property
    def axes(self) -> Tensor | None:
        """Axes of a prompt's features, (d, d); None without an axes file."""
        return load_axes(self.folder, self.model)

    def _path(self, name: str) -> Path:
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; invcap train-starts learns starts for a model")
        return path


def check_latents(learned: LearnedStarts, latent_size: tuple[int, int]) -> None:
    """Raises ValueError unless the amortised start was learned for latents of this size."""
    expected = learned.amortised.latent_shape
    if tuple(expected[1:]) != tuple(latent_size):
        raise ValueError(
            f"{learned.folder}: expected latents of {expected[1]} x {expected[2]}, got "
            f"{latent_size[0]} x {latent_size[1]}: the start was learned for another image size"
        )


def resolve_start(
    start: Start, latents: Tensor, captions: Sequence[str], learned: LearnedStarts
) -> list[str] | Conditioning:
    """The initial prompts of P images: P sentences, or the conditioning of P prompts.

    Args:
        start: a sentence, or one for each image; hidden states (N, d) or (P, N, d); conditioning
            of one prompt or P; "caption"; "amortised", one pass of a network; or "meta", one
            learned prompt.
        latents: (P, C, h, w), of the images.
        captions: one for each image, for the start "caption".
        learned: the learned starts.

    Raises:
        ValueError: a file is missing, or the number or shape is wrong.
    """
    count, model = len(latents), learned.model
    if isinstance(start, Tensor | Conditioning):
        return _encoded(start, count, model)
    if start == "caption":
        return list(captions)
    if start == "meta":
        return _encoded(learned.meta, count, model)
    if start == "amortised":
        check_latents(learned, (latents.shape[2], latents.shape[3]))
        with torch.no_grad():
            return model.conditioning_of(learned.amortised(latents))
    starts = [start] * count if isinstance(start, str) else list(start)
    if len(starts) != count:
        raise ValueError(f"start must be one, or one for each of {count} images, got {len(starts)}")
    return starts


def _encoded(start: Tensor | Conditioning, count: int, model: FrozenTextToImage) -> Conditioning:
    if isinstance(start, Tensor):
        start = model.conditioning_of(start if start.ndim == 3 else start[None])
    expanded = {}
    for name, shape in model.conditioning_shapes.items():
        tensor = start.tensors.get(name)
        if tensor is None or tuple(tensor.shape) not in ((1, *shape), (count, *shape)):
            raise ValueError(
                f"start must have {name} of shape {(1, *shape)} or {(count, *shape)}, got "
                f"{None if tensor is None else tuple(tensor.shape)}"
            )
        expanded[name] = tensor.float().to(model.device).expand(count, *shape).clone()
    return Conditioning(expanded)
