"""Encodes images into a frozen model's latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def encode_mean(vae: Any, pixels: Tensor, device: torch.device) -> Tensor:
    """Scaled latents (P, C, h, w) float32 of pixels (P, 3, H, W) by the mean of the posterior.

    Args:
        vae: an `AutoencoderKL`. One that overflows in half precision, as SDXL's own does, is cast
            to float32 meanwhile.
        device: where it computes.
    """
    dtype = vae.dtype
    overflows = dtype == torch.float16 and vae.config.force_upcast
    if overflows:
        vae.to(torch.float32)
    posterior = vae.encode(pixels.to(device, vae.dtype)).latent_dist
    if overflows:
        vae.to(dtype)
    shift = vae.config.shift_factor
    mean = posterior.mode().float()
    return (mean if shift is None else mean - shift) * vae.config.scaling_factor
