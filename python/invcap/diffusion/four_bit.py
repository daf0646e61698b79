"""Weights of four bits, by bitsandbytes, which diffusers and transformers load if it is there."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from diffusers import PipelineQuantizationConfig

NETWORKS = ("unet", "transformer", "text_encoder")


def check_four_bit(compute_dtype: torch.dtype | None = None) -> None:
    """Raises ValueError unless this machine can load weights of four bits."""
    if find_spec("bitsandbytes") is None:
        raise ValueError("four_bit needs the package bitsandbytes: pip install bitsandbytes")
    if not torch.cuda.is_available():
        raise ValueError("four_bit needs a CUDA device, and this machine has none")
    if compute_dtype is not None:
        raise ValueError(f"compute_dtype cannot be used with four_bit, got {compute_dtype}")


def four_bit_config(parts: Mapping[str, Any], dtype: torch.dtype) -> PipelineQuantizationConfig:
    """How diffusers loads the denoiser and the text encoders, except CLIP's, which are small.

    Args:
        parts: of the pipeline, as `model_index.json` lists them: names to (library, class).
        dtype: of arithmetic.

    Source: Dettmers et al., "QLoRA: efficient finetuning of quantized LLMs" (2023), NF4.
    """
    return PipelineQuantizationConfig(
        quant_backend="bitsandbytes_4bit",
        quant_kwargs={
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": dtype,
        },
        components_to_quantize=[
            name
            for name, part in parts.items()
            if name.startswith(NETWORKS) and not (part[1] or "").startswith("CLIP")
        ],
    )
