"""Prompt embeddings and token vectors as files, which know the model they belong to."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import DiffusionPipeline
from torch import Tensor

from invcap.files import read_tensors, write_tensors
from invcap.hashing import same_signature, signature


def save_prompt_embeds(path: Path, prompt_embeds: Tensor, pipeline: DiffusionPipeline) -> None:
    """Writes one prompt's hidden states, (77, d), as safetensors.

    The tensor is `prompt_embeds`, (1, 77, d), as `StableDiffusionPipeline` takes it.

    Args:
        pipeline: what they are for: ours, or a `StableDiffusionPipeline`.
    """
    tensors = {"prompt_embeds": prompt_embeds[None].float().cpu()}
    write_tensors(path, tensors, unet=json.dumps(signature(pipeline.unet)))


def load_prompt_embeds(path: Path, pipeline: DiffusionPipeline) -> Tensor:
    """Reads what `save_prompt_embeds` wrote, (1, 77, d).

    Args:
        pipeline: what shall use them: ours, or a `StableDiffusionPipeline`.

    Raises:
        ValueError: the file is missing or broken, or the embedding is of another shape or for
            another model.
    """
    tensors, metadata = read_tensors(path)
    if "prompt_embeds" not in tensors or "unet" not in metadata:
        raise ValueError(f"{path}: not a prompt embedding; it has {sorted(tensors)}")
    embeds = tensors["prompt_embeds"]
    shape = (1, pipeline.tokenizer.model_max_length, pipeline.unet.config.cross_attention_dim)
    if embeds.shape != shape:
        raise ValueError(
            f"{path}: expected an embedding of shape {shape}, got {tuple(embeds.shape)}"
        )
    if not same_signature(json.loads(metadata["unet"]), signature(pipeline.unet)):
        raise ValueError(f"{path}: the embedding is for another model: the weights differ")
    return embeds


def save_token_vectors(path: Path, vectors: Tensor, token: str) -> None:
    """Writes token vectors, (n, d), as a file that diffusers' `load_textual_inversion` loads.

    Args:
        token: the word that then stands for all n of them in a prompt, such as "<picture>".
    """
    write_tensors(path, {token: vectors.float().cpu()})
