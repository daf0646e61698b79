"""Loads the model of a prompt command in the memory that there is."""

from __future__ import annotations

from typing import Any

from invcap.cli.options import DTYPES


def load_pipeline(
    model: str | None,
    device: Any,
    dtype: str,
    compute_dtype: str | None,
    four_bit: bool,
    offload: bool,
    group_offload: bool,
) -> Any:
    """The pipeline of a model, on a device or offloaded from it.

    Raises:
        ValueError: the options cannot be used, together or on this device, which is found before
            anything is loaded; or the model cannot be loaded.
    """
    from invcap.prompt_inversion import PromptInversionPipeline

    options = {"dtype": _dtype("dtype", dtype), "four_bit": four_bit}
    if compute_dtype is not None:
        options["compute_dtype"] = _dtype("compute_dtype", compute_dtype)
    on_a_gpu = {"--offload": offload, "--group-offload": group_offload, "--four-bit": four_bit}
    for name, asked in on_a_gpu.items():
        if asked and device.type == "cpu":
            raise ValueError(f"{name} needs a CUDA device, got cpu")
    if group_offload and (offload or four_bit):
        other = "--offload" if offload else "--four-bit"
        raise ValueError(f"--group-offload cannot be used with {other}")
    pipeline = PromptInversionPipeline.from_pretrained(model, **options)
    if group_offload:
        return pipeline.enable_group_offload(device)
    return pipeline.enable_offload(device) if offload else pipeline.to(device)


def _dtype(option: str, name: str) -> Any:
    import torch

    if name not in DTYPES:
        raise ValueError(f"{option} must be one of {', '.join(DTYPES)}, got {name!r}")
    return getattr(torch, name)
