"""Prompt embeddings and token vectors as files, which know the model they belong to."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import DiffusionPipeline
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.families import frozen
from invcap.diffusion.model import FrozenTextToImage
from invcap.files import read_tensors, write_tensors
from invcap.hashing import same_signature


def save_conditioning(path: Path, conditioning: Conditioning, model: FrozenTextToImage) -> None:
    """Writes one prompt's tensors, named as the model's pipeline takes them, as safetensors.

    Args:
        conditioning: of one prompt.
    """
    tensors = {name: tensor.float().cpu() for name, tensor in conditioning.tensors.items()}
    write_tensors(path, tensors, unet=json.dumps(model.signature))


def load_conditioning(path: Path, model: FrozenTextToImage) -> Conditioning:
    """Reads what `save_conditioning` wrote: the conditioning of one prompt, on the CPU.

    Raises:
        ValueError: the file is missing or broken, or the embedding is of another shape or for
            another model.
    """
    tensors, metadata = read_tensors(path)
    shapes = {name: (1, *shape) for name, shape in model.conditioning_shapes.items()}
    if "unet" not in metadata or tensors.keys() != shapes.keys():
        raise ValueError(f"{path}: not a prompt embedding; it has {sorted(tensors)}")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(
                f"{path}: expected an embedding of shape {shape}, got {tuple(tensors[name].shape)}"
            )
    check_signature(path, "embedding", metadata["unet"], model)
    return Conditioning(tensors)


def check_signature(path: Path, what: str, recorded: str, model: FrozenTextToImage) -> None:
    """Raises ValueError unless a file's recorded signature is that of a model."""
    try:
        signature = json.loads(recorded)
    except ValueError as error:
        raise ValueError(f"{path}: what it says of its model is not JSON: {error}") from error
    if not same_signature(signature, model.signature):
        raise ValueError(f"{path}: the {what} is for another model: the weights differ")


def save_prompt_embeds(
    path: Path, prompt_embeds: Tensor, pipeline: DiffusionPipeline | FrozenTextToImage
) -> None:
    """Writes one prompt's hidden states, (77, d), as safetensors.

    The tensor is `prompt_embeds`, (1, 77, d), as the model's pipeline takes it.

    Args:
        pipeline: what they are for: a model, ours, or a diffusers pipeline.
    """
    model = _model(pipeline)
    save_conditioning(path, model.conditioning_of(prompt_embeds[None]), model)


def load_prompt_embeds(path: Path, pipeline: DiffusionPipeline | FrozenTextToImage) -> Tensor:
    """Reads what `save_prompt_embeds` wrote, (1, 77, d).

    Args:
        pipeline: what shall use them, as of `save_prompt_embeds`.

    Raises:
        ValueError: the file is missing or broken, or the embedding is of another shape or for
            another model.
    """
    model = _model(pipeline)
    return load_conditioning(path, model).tensors[model.optimized]


def save_token_vectors(path: Path, vectors: Tensor, token: str) -> None:
    """Writes token vectors, (n, d), as a file that diffusers' `load_textual_inversion` loads.

    Args:
        token: the word that then stands for all n of them in a prompt, such as "<picture>".
    """
    write_tensors(path, {token: vectors.float().cpu()})


def _model(pipeline: DiffusionPipeline | FrozenTextToImage) -> FrozenTextToImage:
    if isinstance(pipeline, FrozenTextToImage):
        return pipeline
    return pipeline.model if hasattr(pipeline, "model") else frozen(pipeline)
