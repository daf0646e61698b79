"""Where an inversion begins: at a sentence, an embedding, a caption, or what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invcap.prompt_inversion.amortised import AmortisedStart
from invcap.prompt_inversion.embeddings import load_prompt_embeds

if TYPE_CHECKING:
    from invcap.prompt_inversion.pipeline import PromptInversionPipeline

Start = str | Sequence[str] | Tensor
LEARNED = ("amortised", "meta")
NEAR = ("caption", "amortised")
FOLDER = "starts"


def start_of(
    pipeline: PromptInversionPipeline,
    start: Start,
    latents: Tensor,
    captions: Sequence[str] | None,
    folder: str | Path | None,
) -> list[str] | Tensor:
    """What an inversion of P pictures begins with: P sentences, or hidden states (P, 77, d).

    Args:
        start: a sentence, or one for each picture; hidden states (77, d) or (P, 77, d); "caption";
            "amortised", one pass of a network; or "meta", which learned from how inversions go.
        latents: (P, C, h, w), of the pictures.
        captions: what a captioner says of each; None if there is no captioner.
        folder: of learned starts; by default the model's own.

    Raises:
        ValueError: there is no captioner or no such folder, or the number or shape is wrong.
    """
    count = len(latents)
    if isinstance(start, Tensor):
        shape = (pipeline.tokenizer.model_max_length, pipeline.unet.config.cross_attention_dim)
        if tuple(start.shape) not in (shape, (count, *shape)):
            raise ValueError(
                f"start must be hidden states of shape {shape} or {(count, *shape)}, got "
                f"{tuple(start.shape)}"
            )
        return start.float().cpu().expand(count, *shape).clone()
    if start == "caption":
        if captions is None:
            raise ValueError("start 'caption' needs a captioner, got none")
        return list(captions)
    if start in LEARNED:
        return learned_start(pipeline, start, latents, folder)
    starts = [start] * count if isinstance(start, str) else list(start)
    if len(starts) != count:
        raise ValueError(
            f"start must be one, or one for each of {count} pictures, got {len(starts)}"
        )
    return starts


def learned_start(
    pipeline: PromptInversionPipeline, name: str, latents: Tensor, folder: str | Path | None = None
) -> Tensor:
    """Hidden states (P, 77, d) that `python/train_starts.py` learned, for latents (P, C, h, w)."""
    path = starts_folder(pipeline, folder) / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; python/train_starts.py learns starts for a model")
    if name == "meta":
        return load_prompt_embeds(path, pipeline).expand(len(latents), -1, -1).clone()
    amortised = AmortisedStart.load(path, pipeline)
    if latents.shape[1:] != amortised.latent_mean.shape:
        raise ValueError(
            f"{path}: expected latents of shape {tuple(amortised.latent_mean.shape)}, got "
            f"{tuple(latents.shape[1:])}: the start was learned for another size of pictures"
        )
    with torch.no_grad():
        return amortised(latents)


def starts_folder(pipeline: PromptInversionPipeline, folder: str | Path | None) -> Path:
    """Where learned starts are; by default in the model's own folder."""
    return Path(pipeline.name_or_path or "") / FOLDER if folder is None else Path(folder)
