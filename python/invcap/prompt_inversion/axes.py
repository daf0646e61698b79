"""An orthonormal basis of prompt features in which Adam works, learned from gradients."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage
from invcap.files import read_tensors, write_tensors
from invcap.prompt_inversion.embeddings import check_signature
from invcap.prompt_inversion.objective import Objective
from invcap.prompt_inversion.parametrization import parametrize
from invcap.prompt_inversion.settings import few_steps

FILE = "axes.safetensors"
DRAWS = 8
IMAGES_AT_ONCE = 32


def learn_axes(
    model: FrozenTextToImage, latents: Tensor, starts: Conditioning, seed: int = 0
) -> Tensor:
    """The principal axes (d, d), as columns, of the bound's gradients in a prompt's features.

    Adam scales each coordinate separately; along these axes the gradients of different coordinates
    are uncorrelated. Each image's gradient is normalized, so that all have the same weight.

    Args:
        model: the model.
        latents: (N, C, h, w), of training images.
        starts: the N prompts that their inversions start from.
        seed: seed of the first image's noise samples.

    Source: a factor of Gupta et al., "Shampoo" (2018), equation 4; Adam along its axes is Vyas et
    al., "SOAP" (2024). There the axes are updated during a run; here they are learned before it.
    """
    settings = few_steps(model.schedule, draws=DRAWS, bank=DRAWS)
    width = starts.tensors[model.optimized].shape[-1]
    moment = torch.zeros(width, width, device=latents.device)
    for first in range(0, len(latents), IMAGES_AT_ONCE):
        chosen = slice(first, first + IMAGES_AT_ONCE)
        vectors, conditioning_of = parametrize(model, starts[chosen], "hidden_states")
        seeds = [seed + first + index for index in range(len(vectors))]
        objective = Objective(model, latents[chosen], conditioning_of, seeds, settings)
        rows = torch.arange(len(vectors), device=latents.device)
        gradient, _ = objective.gradient(vectors, rows, 0)
        gradient = torch.nn.functional.normalize(gradient.flatten(1)).view_as(gradient)
        moment += torch.einsum("pnd,pne->de", gradient, gradient)
    return torch.linalg.eigh(moment).eigenvectors


def save_axes(folder: Path, axes: Tensor, model: FrozenTextToImage) -> None:
    """Writes axes (d, d) into a folder of learned starts."""
    write_tensors(folder / FILE, {"features": axes}, unet=json.dumps(model.signature))


def load_axes(folder: Path, model: FrozenTextToImage) -> Tensor | None:
    """Reads what `save_axes` wrote, (d, d); None if there is no such file.

    Raises:
        ValueError: the file is broken, or belongs to another model.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    tensors, metadata = read_tensors(path)
    width = model.conditioning_shapes[model.optimized][-1]
    if "unet" not in metadata or [*tensors] != ["features"]:
        raise ValueError(f"{path}: not axes; it has {sorted(tensors)}")
    if tensors["features"].shape != (width, width):
        raise ValueError(
            f"{path}: expected axes of shape {(width, width)}, got "
            f"{tuple(tensors['features'].shape)}"
        )
    check_signature(path, "axes file", metadata["unet"], model)
    return tensors["features"]
