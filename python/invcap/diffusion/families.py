"""Which class stands for which family of models, and loading one by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.stable_diffusion import StableDiffusion

FAMILIES: tuple[type[FrozenTextToImage], ...] = (StableDiffusion,)
SUPPORTED = {name: family for family in FAMILIES for name in family.pipelines}


def load_model(name: str | Path | None = None, **options: Any) -> FrozenTextToImage:
    """Loads a frozen text-to-image model from a folder or the hub; by default tiny-sd.

    Args:
        options: as of `DiffusionPipeline.from_pretrained`, such as `dtype`.

    Raises:
        ValueError: it is neither a folder nor a model that loads, or of no supported family.
    """
    name = tiny_sd() if name is None else name
    index = Path(name) / DiffusionPipeline.config_name
    if Path(name).is_dir() and not index.is_file():
        raise ValueError(f"{name}: expected a diffusers pipeline, but has no {index.name}")
    try:
        kind = DiffusionPipeline.load_config(str(name))["_class_name"]
    except (OSError, KeyError) as error:
        raise ValueError(f"{name}: not a diffusers pipeline that loads: {error}") from error
    check_supported(str(name), kind)
    try:
        pipeline = getattr(diffusers, kind).from_pretrained(
            str(name), use_safetensors=True, **SUPPORTED[kind].load_options, **options
        )
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: not a {kind} that loads: {error}") from error
    return SUPPORTED[kind](pipeline)


def frozen(pipeline: Any) -> FrozenTextToImage:
    """A diffusers pipeline that is loaded already, as a frozen model.

    Raises:
        ValueError: it is of no supported family.
    """
    kind = type(pipeline).__name__
    check_supported("pipeline", kind)
    return SUPPORTED[kind](pipeline)


def stable_diffusion(**components: Any) -> FrozenTextToImage:
    """The networks of a Stable Diffusion as a frozen model.

    Args:
        components: of `StableDiffusionPipeline`: vae, text_encoder, tokenizer, unet, scheduler.
    """
    return StableDiffusion(StableDiffusionPipeline(**components, **StableDiffusion.load_options))


def check_supported(name: str, kind: str) -> None:
    """Raises ValueError, with what is supported, unless a class of pipelines is."""
    if kind not in SUPPORTED:
        raise ValueError(f"{name}: expected one of {', '.join(SUPPORTED)}, got {kind}")


def tiny_sd() -> Path:
    """The embedded model's folder, in an installed package or in the repository.

    Raises:
        ValueError: it is not there.
    """
    here = Path(__file__)
    folders = [root / "models" / "tiny-sd" for root in (here.parents[1], here.parents[3])]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise ValueError(
        f"{folders[-1]}: no such folder; train it with python/train_tiny_sd.py, or name a model"
    )
