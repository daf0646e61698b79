"""Axes of a prompt's features that Adam's steps go along, learned from gradients of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invcap.files import read_tensors, write_tensors
from invcap.hashing import same_signature, signature
from invcap.prompt_inversion.inversion import Inversion, few_steps

if TYPE_CHECKING:
    from invcap.prompt_inversion.pipeline import PromptInversionPipeline

FILE = "axes.safetensors"
DRAWS = 8
PICTURES_AT_ONCE = 32


def learn_axes(
    pipeline: PromptInversionPipeline, latents: Tensor, hidden: Tensor, seed: int = 0
) -> Tensor:
    """The principal axes (d, d), as columns, of the bound's gradients by a prompt's features.

    Adam weighs each coordinate by itself: along these axes, what one coordinate's gradient does is
    least tied to what the others' do. Every picture's gradient counts alike, however long it is.

    Args:
        latents: (N, C, h, w), of training pictures.
        hidden: (N, 77, d), where their inversions start.
        seed: of their draws.

    Source: a factor of Gupta et al., "Shampoo" (2018), equation 4; Adam along its axes is Vyas et
    al., "SOAP" (2024). There they follow one run; here they are known before its first step.
    """
    settings = few_steps(pipeline.schedule, draws=DRAWS, bank=DRAWS)
    moment = torch.zeros(hidden.shape[-1], hidden.shape[-1])
    for first in range(0, len(latents), PICTURES_AT_ONCE):
        chosen = slice(first, first + PICTURES_AT_ONCE)
        begun = hidden[chosen]
        seeds = [seed + first + index for index in range(len(begun))]
        inversion = Inversion(
            pipeline, latents[chosen], begun, seeds, lambda vectors, rows: vectors, settings
        )
        gradient, _ = inversion.gradient(begun, torch.arange(len(begun)), 0)
        gradient = torch.nn.functional.normalize(gradient.flatten(1)).view_as(gradient)
        moment += torch.einsum("pnd,pne->de", gradient, gradient)
    return torch.linalg.eigh(moment).eigenvectors


def save_axes(folder: Path, axes: Tensor, pipeline: PromptInversionPipeline) -> None:
    """Writes axes (d, d) into a folder of learned starts."""
    write_tensors(folder / FILE, {"features": axes}, unet=json.dumps(signature(pipeline.unet)))


def load_axes(folder: Path, pipeline: PromptInversionPipeline) -> Tensor | None:
    """Reads what `save_axes` wrote, (d, d); None if there is no such file.

    Raises:
        ValueError: the file is broken, or for another model.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    tensors, metadata = read_tensors(path)
    width = pipeline.unet.config.cross_attention_dim
    if "unet" not in metadata or [*tensors] != ["features"]:
        raise ValueError(f"{path}: not axes; it has {sorted(tensors)}")
    if tensors["features"].shape != (width, width):
        raise ValueError(
            f"{path}: expected axes of shape {(width, width)}, got "
            f"{tuple(tensors['features'].shape)}"
        )
    if not same_signature(json.loads(metadata["unet"]), signature(pipeline.unet)):
        raise ValueError(f"{path}: the axes are for another model: the weights differ")
    return tensors["features"]
