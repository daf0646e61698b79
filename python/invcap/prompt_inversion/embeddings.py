"""Files of prompt embeddings and token vectors, with the signature of their model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.families import frozen
from invcap.diffusion.model import FrozenTextToImage
from invcap.files import read_tensors, replacing, write_tensors
from invcap.hashing import same_signature


def save_conditioning(
    path: Path, conditioning: Conditioning, model: FrozenTextToImage, negative: bool = False
) -> None:
    """Writes one prompt's tensors, named as the model's pipeline takes them, as safetensors.

    Args:
        path: the file.
        conditioning: tensors of one prompt.
        model: the model they are for.
        negative: name them as a negative prompt's.
    """
    before = "negative_" if negative else ""
    trimmed = model.trim(conditioning).tensors
    tensors = {before + name: tensor.float().cpu() for name, tensor in trimmed.items()}
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
    tensors = dict(model.pad(Conditioning(tensors)).tensors)
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
        raise ValueError(f"{path}: the signature of its model is not JSON: {error}") from error
    if not same_signature(signature, model.signature):
        raise ValueError(f"{path}: the {what} is for another model: the weights differ")


def save_prompt_embeds(
    path: Path, prompt_embeds: Tensor, pipeline: DiffusionPipeline | FrozenTextToImage
) -> None:
    """Writes one prompt's hidden states, (77, d), as safetensors.

    The tensor is `prompt_embeds`, (1, 77, d), as the model's pipeline takes it.

    Args:
        path: the file.
        prompt_embeds: the hidden states.
        pipeline: the model they are for, or its pipeline, ours or diffusers'.
    """
    model = _model(pipeline)
    save_conditioning(path, model.conditioning_of(prompt_embeds[None]), model)


def load_prompt_embeds(path: Path, pipeline: DiffusionPipeline | FrozenTextToImage) -> Tensor:
    """Reads what `save_prompt_embeds` wrote, (1, 77, d).

    Args:
        path: the file.
        pipeline: the model that will use them, see `save_prompt_embeds`.

    Raises:
        ValueError: the file is missing or broken, or the embedding is of another shape or for
            another model.
    """
    model = _model(pipeline)
    return load_conditioning(path, model).tensors[model.optimized]


def save_token_vectors(
    path: Path, vectors: Tensor, token: str, parts: Mapping[str, int] | None = None
) -> None:
    """Writes token vectors, (n, d), as an embedding file that other programs load.

    For a model with one CLIP text encoder, the file has one tensor, named `token`, which diffusers'
    `load_textual_inversion`, A1111 and ComfyUI load; a file name in .pt gives A1111's older format,
    `string_to_param`. For other models, it has a tensor for each encoder: clip_l, clip_g, t5xxl.

    Args:
        path: the file.
        vectors: the token vectors.
        token: the word that stands for all n of them in a prompt, such as "<picture>".
        parts: `FrozenTextToImage.token_parts` of the model; by default those of one CLIP.

    Raises:
        ValueError: the file name ends in .pt, and the model has other text encoders than one CLIP.
    """
    vectors = vectors.float().cpu()
    parts = parts or {"clip_l": vectors.shape[1]}
    one_clip = [*parts] == ["clip_l"]
    if path.suffix == ".pt":
        if not one_clip:
            raise ValueError(f"{path}: expected .safetensors for the parts {', '.join(parts)}")
        content = {"string_to_token": {"*": 0}, "string_to_param": {"*": vectors}, "name": token}
        with replacing(path) as temporary:
            torch.save(content, temporary)
    elif one_clip:
        write_tensors(path, {token: vectors})
    else:
        write_tensors(path, dict(zip(parts, vectors.split([*parts.values()], 1), strict=True)))


def _model(pipeline: DiffusionPipeline | FrozenTextToImage) -> FrozenTextToImage:
    if isinstance(pipeline, FrozenTextToImage):
        return pipeline
    return pipeline.model if hasattr(pipeline, "model") else frozen(pipeline)
