"""Picture latents to prompt embeddings in one pass, by an invertible network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from invcap.files import read_tensors, write_tensors
from invcap.hashing import same_signature, signature
from invcap_ext import InvertibleNetwork

if TYPE_CHECKING:
    from invcap.prompt_inversion.pipeline import PromptInversionPipeline


class AmortisedStart(nn.Module):
    """y = mean + basis^T f(x), f an invertible network whose first K outputs are a prompt's code.

    The basis spans where prompts of the training captions differ most; what f gives beyond the
    code is what a picture has and no prompt says.

    Args:
        latents: (C, h, w), shape of a picture's latents.
        hidden: (77, d), shape of a prompt's hidden states.
        codes: K, at most C h w.
        depth: layers of f.
        negative_slope: of its activations.

    Source: the basis is that of principal components of captions' hidden states (`of`); f then
    learns to maximise the bound itself, as the encoder does in Kingma and Welling,
    "Auto-encoding variational Bayes" (2014).
    """

    def __init__(
        self,
        latents: Sequence[int],
        hidden: Sequence[int],
        codes: int = 128,
        depth: int = 3,
        negative_slope: float = 0.7,
    ) -> None:
        super().__init__()
        most = min(prod(latents), prod(hidden))
        if not 1 <= codes <= most:
            raise ValueError(f"codes must be from 1 to {most}, got {codes}")
        self.network = InvertibleNetwork(prod(latents), depth, negative_slope=negative_slope)
        self.register_buffer("latent_mean", torch.zeros(*latents))
        self.register_buffer("latent_deviation", torch.ones(*latents))
        self.mean = nn.Parameter(torch.zeros(*hidden))
        self.basis = nn.Parameter(torch.zeros(codes, *hidden))

    @classmethod
    @torch.no_grad()
    def of(cls, latents: Tensor, hidden: Tensor, **options: Any) -> AmortisedStart:
        """One that knows the statistics of training pictures, and whose network is untrained.

        Args:
            latents: (N, C, h, w).
            hidden: (N, 77, d), of their captions.
            options: as of the class.
        """
        start = cls(latents.shape[1:], hidden.shape[1:], **options)
        codes = len(start.basis)
        rows = hidden.flatten(1).float()
        mean = rows.mean(0)
        variances, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        unit = variances[-codes:].mean().sqrt()
        start.latent_mean.copy_(latents.mean(0))
        start.latent_deviation.copy_(latents.std(0).clamp(min=1e-6))
        start.mean.copy_(mean.view_as(start.mean))
        start.basis.copy_((unit * axes[:, -codes:].T.flip(0)).view_as(start.basis))
        return start

    def forward(self, latents: Tensor) -> Tensor:
        """Maps latents (P, C, h, w) to hidden states (P, 77, d)."""
        return self.mean + torch.einsum("pk,knd->pnd", self.code(latents), self.basis)

    def code(self, latents: Tensor) -> Tensor:
        """Maps latents (P, C, h, w) to codes (P, K)."""
        x = (latents - self.latent_mean) / self.latent_deviation
        return self.network(x.flatten(1))[:, : len(self.basis)]

    def code_of(self, hidden: Tensor) -> Tensor:
        """The codes (P, K) whose hidden states are nearest to those of prompts (P, 77, d)."""
        basis = self.basis.flatten(1)
        return (hidden - self.mean).flatten(1) @ basis.T / basis.square().sum(1)

    def save(self, path: Path, pipeline: PromptInversionPipeline) -> None:
        """Writes it as safetensors in half precision, with what model it is for."""
        config = {
            "latents": list(self.latent_mean.shape),
            "hidden": list(self.mean.shape),
            "codes": len(self.basis),
            "depth": len(self.network.layers),
            "negative_slope": self.network.layers[0].negative_slope,
        }
        tensors = {name: value.half() for name, value in self.state_dict().items()}
        write_tensors(
            path, tensors, config=json.dumps(config), unet=json.dumps(signature(pipeline.unet))
        )

    @classmethod
    def load(cls, path: Path, pipeline: PromptInversionPipeline) -> AmortisedStart:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is missing or broken, or for another model.
        """
        tensors, metadata = read_tensors(path)
        if not {"config", "unet"} <= metadata.keys():
            raise ValueError(f"{path}: not an amortised start; it has {sorted(tensors)}")
        if not same_signature(json.loads(metadata["unet"]), signature(pipeline.unet)):
            raise ValueError(f"{path}: the start is for another model: the weights differ")
        start = cls(**json.loads(metadata["config"]))
        start.load_state_dict({name: value.float() for name, value in tensors.items()})
        return start.eval().requires_grad_(False)
