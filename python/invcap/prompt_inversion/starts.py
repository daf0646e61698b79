"""Where an inversion begins: at a sentence, an embedding, a caption, or what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage
from invcap.prompt_inversion.amortised import AmortisedStart
from invcap.prompt_inversion.axes import load_axes
from invcap.prompt_inversion.embeddings import load_conditioning

Start = str | Sequence[str] | Tensor | Conditioning
LEARNED = ("amortised", "meta")
FOLDER = "starts"


class LearnedStarts:
    """What was learned for a model, each file read once.

    Args:
        model: the model.
        folder: of `amortised.safetensors`, `meta.safetensors` and `axes.safetensors`; by default
            `starts` in the model's own folder.

    Raises:
        ValueError: a folder is named and is not there.
    """

    def __init__(self, model: FrozenTextToImage, folder: str | Path | None = None) -> None:
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"starts: expected a folder of learned starts, got {folder}")
        self.model = model
        self.folder = Path(model.name) / FOLDER if folder is None else Path(folder)

    @cached_property
    def amortised(self) -> AmortisedStart:
        """One pass of a network from latents to a prompt."""
        return AmortisedStart.load(self._path("amortised"), self.model).to(self.model.device)

    @cached_property
    def meta(self) -> Conditioning:
        """One prompt for all images."""
        return load_conditioning(self._path("meta"), self.model)

    @cached_property
    def axes(self) -> Tensor | None:
        """Axes of a prompt's features, (d, d); None if none were learned."""
        return load_axes(self.folder, self.model)

    def _path(self, name: str) -> Path:
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; invcap train-starts learns starts for a model")
        return path


def check_start(
    start: Start, learned: LearnedStarts, size: tuple[int, int], has_captioner: bool
) -> None:
    """Raises ValueError unless a start can be used, whatever the images are."""
    model = learned.model
    if start == "caption":
        if not has_captioner:
            raise ValueError("start 'caption' needs a captioner, got none")
    elif start == "amortised":
        unit = model.pixels_per_latent
        check_latents(learned, (size[0] // unit, size[1] // unit))
    elif start == "meta":
        _ = learned.meta
    elif not isinstance(start, Tensor | Conditioning):
        for prompt in [start] if isinstance(start, str) else start:
            model.check_prompt(prompt)


def check_latents(learned: LearnedStarts, latent_size: tuple[int, int]) -> None:
    """Raises ValueError unless the amortised start was learned for latents of this size."""
    expected = learned.amortised.latent_shape
    if tuple(expected[1:]) != tuple(latent_size):
        raise ValueError(
            f"{learned.folder}: expected latents of {expected[1]} x {expected[2]}, got "
            f"{latent_size[0]} x {latent_size[1]}: the start was learned for images of another size"
        )


def resolve_start(
    start: Start, latents: Tensor, captions: Sequence[str] | None, learned: LearnedStarts
) -> list[str] | Conditioning:
    """What an inversion of P images begins with: P sentences, or P prompts that are encoded.

    Args:
        start: a sentence, or one for each image; hidden states (N, d) or (P, N, d); conditioning
            of one prompt or P; "caption"; "amortised", one pass of a network; or "meta", which
            learned from how inversions go.
        latents: (P, C, h, w), of the images.
        captions: what a captioner says of each; None if there is no captioner.
        learned: the learned starts.

    Raises:
        ValueError: there is no captioner or no such folder, or the number or shape is wrong.
    """
    count, model = len(latents), learned.model
    if isinstance(start, Tensor | Conditioning):
        return _encoded(start, count, model)
    if start == "caption":
        if captions is None:
            raise ValueError("start 'caption' needs a captioner, got none")
        return list(captions)
    if start == "meta":
        return _encoded(learned.meta, count, model)
    if start == "amortised":
        check_latents(learned, (latents.shape[2], latents.shape[3]))
        with torch.no_grad():
            return Conditioning({model.optimized: learned.amortised(latents)})
    starts = [start] * count if isinstance(start, str) else list(start)
    if len(starts) != count:
        raise ValueError(f"start must be one, or one for each of {count} images, got {len(starts)}")
    return starts


def _encoded(start: Tensor | Conditioning, count: int, model: FrozenTextToImage) -> Conditioning:
    shapes = model.conditioning_shapes
    given = start.tensors if isinstance(start, Conditioning) else {model.optimized: start}
    expanded = {}
    for name, shape in shapes.items():
        tensor = given.get(name)
        fits = (shape, (1, *shape), (count, *shape))
        if tensor is None or tuple(tensor.shape) not in fits:
            raise ValueError(
                f"start must be hidden states of shape {shape} or {(count, *shape)}, got "
                f"{None if tensor is None else tuple(tensor.shape)}"
            )
        expanded[name] = tensor.float().to(model.device).expand(count, *shape).clone()
    return Conditioning(expanded)
