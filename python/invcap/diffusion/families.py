"""The families of models, and loading a model by name."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.loaders.single_file_utils import (
    CHECKPOINT_KEY_NAMES,
    SingleFileComponentError,
    infer_diffusers_model_type,
    load_single_file_checkpoint,
)

from invcap.diffusion.distilled import named_distilled, warn_if_distilled
from invcap.diffusion.flux import Flux
from invcap.diffusion.four_bit import check_four_bit, four_bit_config
from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.stable_diffusion import StableDiffusion
from invcap.diffusion.stable_diffusion_3 import StableDiffusion3
from invcap.diffusion.stable_diffusion_xl import StableDiffusionXL
from invcap.diffusion.z_image import ZImage

FAMILIES: tuple[type[FrozenTextToImage], ...] = (
    StableDiffusion,
    StableDiffusionXL,
    StableDiffusion3,
    Flux,
    ZImage,
)
ANYTHING = "v1"  # what diffusers calls a file that it does not know
EMBEDDED = ("tiny-sd", "tiny-sd3")
UNUSABLE = (OSError, TypeError, ValueError, KeyError, RuntimeError)
SUPPORTED = {name: family for family in FAMILIES for name in family.pipelines}


def load_model(
    name: str | Path | None = None,
    *,
    compute_dtype: torch.dtype | None = None,
    four_bit: bool = False,
    **options: Any,
) -> FrozenTextToImage:
    """Loads a frozen text-to-image model: a folder, a file or a name on the hub; else tiny-sd.

    Args:
        name: a folder that diffusers wrote, a file with all weights of a model, a hub name, or
            `tiny-sd` or `tiny-sd3`, which are embedded.
        compute_dtype: of arithmetic, by default that of the weights; see
            `FrozenTextToImage.compute_in`.
        four_bit: store the large networks' weights in 4 bits, by bitsandbytes, on a GPU.
        options: as of diffusers' `from_pretrained` or `from_single_file`, such as `dtype`, or
            `config`, a folder or hub name with the settings of a file's networks.

    Raises:
        ValueError: it cannot be loaded, or its family is not supported.
    """
    name = EMBEDDED[0] if name is None else name
    if str(name) in EMBEDDED and not Path(name).exists():
        name = embedded(str(name))
    if four_bit:
        check_four_bit(compute_dtype)
    if not Path(name).is_file():
        model = _load_folder(str(name), options, four_bit)
    elif not four_bit:
        model = _load_file(str(name), options)
    else:
        raise ValueError(f"four_bit needs a folder or a name on the hub, got the file {name}")
    warn_if_distilled(str(name), named_distilled(str(name)) or model.distilled)
    return model if compute_dtype is None else model.compute_in(compute_dtype)


def _load_folder(name: str, options: dict[str, Any], four_bit: bool) -> FrozenTextToImage:
    index = Path(name) / DiffusionPipeline.config_name
    if Path(name).is_dir() and not index.is_file():
        raise ValueError(f"{name}: expected a diffusers pipeline, but has no {index.name}")
    try:
        config = DiffusionPipeline.load_config(name)
        kind = config["_class_name"]
    except (OSError, KeyError) as error:
        raise ValueError(f"{name}: not a diffusers pipeline that loads: {error}") from error
    check_supported(name, kind)
    left_out = {part: None for part, value in config.items() if value == [None, None]}
    options = {"use_safetensors": True, **left_out, **options}
    if four_bit:
        dtype = options.get("dtype", torch.float32)
        options["quantization_config"] = four_bit_config(config, dtype)
    return _family(name, kind, "from_pretrained", options)


def _load_file(name: str, options: dict[str, Any]) -> FrozenTextToImage:
    known = {kind: family for family in FAMILIES for kind in family.single_files}
    try:
        weights = load_single_file_checkpoint(name)
        found = infer_diffusers_model_type(weights)
    except (*UNUSABLE, UnpicklingError) as error:
        raise ValueError(f"{name}: not a file of weights that loads: {error}") from error
    if found == ANYTHING and CHECKPOINT_KEY_NAMES[ANYTHING] not in weights:
        found = "another model"
    if found not in known:
        raise ValueError(f"{name}: expected weights of one of {', '.join(known)}, got {found}")
    return _family(name, known[found].pipelines[0], "from_single_file", options)


def _family(name: str, kind: str, method: str, options: dict[str, Any]) -> FrozenTextToImage:
    family = SUPPORTED[kind]
    load = getattr(getattr(diffusers, kind), method)
    try:
        pipeline = load(name, **{**family.load_options, **options})
    except (*UNUSABLE, SingleFileComponentError) as error:
        raise ValueError(f"{name}: not a {kind} that loads: {error}") from error
    return family(pipeline)


def frozen(pipeline: Any) -> FrozenTextToImage:
    """A diffusers pipeline that is loaded already, as a frozen model.

    Raises:
        ValueError: its family is not supported.
    """
    kind = type(pipeline).__name__
    check_supported("pipeline", kind)
    model = SUPPORTED[kind](pipeline)
    warn_if_distilled(model.name, model.distilled)
    return model


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


def embedded(name: str) -> Path:
    """An embedded model's folder, in an installed package or in the repository.

    Raises:
        ValueError: it is not there.
    """
    here = Path(__file__)
    folders = [root / "models" / name for root in (here.parents[1], here.parents[3])]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise ValueError(
        f"{folders[-1]}: no such folder; train it with python/train_tiny_sd.py, or name a model"
    )
