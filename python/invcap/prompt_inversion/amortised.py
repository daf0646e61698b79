"""The amortised start: an invertible network that maps image latents to prompt embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invcap.diffusion.model import FrozenTextToImage
from invcap.files import read_tensors, write_tensors
from invcap.prompt_inversion.embeddings import check_signature
from invcap_ext import InvertibleNetwork

MAX_FEATURES = 4096
OVERSAMPLING = 16
SAME = 1e-5


class AmortisedStart(nn.Module):
    """y = mean + basis^T f(x), f an invertible network whose first K outputs are a prompt's code.

    The basis spans the directions in which the training captions' hidden states vary most; the
    other outputs of f are not used. Latents of more than 4,096 numbers are average-pooled first.

    Args:
        latents: (C, h, w), shape of an image's latents.
        hidden: (77, d), shape of a prompt's hidden states.
        codes: K, at most the number of the network's outputs.
        depth: number of layers of f.
        negative_slope: that of its activations.

    Source: the basis holds principal components of captions' hidden states (`of`), by Halko et al.,
    "Finding structure with randomness" (2011); f then learns to maximize the bound itself, as the
    encoder does in Kingma and Welling, "Auto-encoding variational Bayes" (2014).
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
        self.latent_shape = tuple(latents)
        self.pool = pool_for(latents)
        pooled = (latents[0], *(side // self.pool for side in latents[1:]))
        most = min(prod(pooled), prod(hidden))
        if not 1 <= codes <= most:
            raise ValueError(f"codes must be from 1 to {most}, got {codes}")
        self.network = InvertibleNetwork(prod(pooled), depth, negative_slope=negative_slope)
        self.latent_mean: Tensor
        self.latent_deviation: Tensor
        self.register_buffer("latent_mean", torch.zeros(*pooled))
        self.register_buffer("latent_deviation", torch.ones(*pooled))
        self.mean = nn.Parameter(torch.zeros(*hidden))
        self.basis = nn.Parameter(torch.zeros(codes, *hidden))

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        latents: Tensor,
        hidden: Tensor,
        seed: int = 0,
        codes: int = 128,
        depth: int = 3,
        negative_slope: float = 0.7,
    ) -> AmortisedStart:
        """An untrained network, with mean, basis and latent statistics of training images.

        Args:
            latents: (N, C, h, w), N at least 2.
            hidden: (M, 77, d), hidden states of captions.
            seed: seed of the network's weights and of the randomized search for the basis.
            codes: see the class; fewer if there are fewer captions or latent numbers.
            depth, negative_slope: see the class.

        Raises:
            ValueError: all captions have the same hidden states.
        """
        rows = hidden.flatten(1).float()
        pooled = F.avg_pool2d(latents, pool_for(latents.shape[1:]))
        codes = min(codes, len(rows), rows.shape[1], pooled[0].numel())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            start = cls(latents.shape[1:], hidden.shape[1:], codes, depth, negative_slope)
            start.to(hidden.device)
            wanted = min(codes + OVERSAMPLING, *rows.shape)
            _, deviations, axes = torch.pca_lowrank(rows, wanted, niter=4)
        unit = (deviations[:codes].square().mean() / len(rows)).sqrt()
        if unit <= SAME * rows.square().mean().sqrt():
            raise ValueError("hidden: expected captions that differ, got the same states for all")
        start.latent_mean.copy_(pooled.mean(0))
        start.latent_deviation.copy_(pooled.std(0).clamp(min=1e-6))
        start.mean.copy_(rows.mean(0).view_as(start.mean))
        start.basis.copy_((unit * axes[:, :codes].T).view_as(start.basis))
        return start

    def forward(self, latents: Tensor) -> Tensor:
        """Maps latents (P, C, h, w) to hidden states (P, 77, d)."""
        return self.mean + torch.einsum("pk,knd->pnd", self.code(latents), self.basis)

    def code(self, latents: Tensor) -> Tensor:
        """Maps latents (P, C, h, w) to codes (P, K)."""
        x = (F.avg_pool2d(latents, self.pool) - self.latent_mean) / self.latent_deviation
        return self.network(x.flatten(1))[:, : len(self.basis)]

    def code_of(self, hidden: Tensor) -> Tensor:
        """Projects hidden states (P, 77, d) onto the basis: codes (P, K)."""
        basis = self.basis.flatten(1)
        return (hidden - self.mean).flatten(1) @ basis.T / basis.square().sum(1)

    def save(self, path: Path, model: FrozenTextToImage) -> None:
        """Writes safetensors in half precision, with the signature of the model."""
        config = {
            "latents": list(self.latent_shape),
            "hidden": list(self.mean.shape),
            "codes": len(self.basis),
            "depth": len(self.network.layers),
            "negative_slope": self.network.layers[0].negative_slope,
        }
        tensors = {name: value.half() for name, value in self.state_dict().items()}
        write_tensors(path, tensors, config=json.dumps(config), unet=json.dumps(model.signature))

    @classmethod
    def load(cls, path: Path, model: FrozenTextToImage) -> AmortisedStart:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is missing or broken, or belongs to another model.
        """
        tensors, metadata = read_tensors(path)
        if not {"config", "unet"} <= metadata.keys():
            raise ValueError(f"{path}: not an amortised start; it has {sorted(tensors)}")
        check_signature(path, "start", metadata["unet"], model)
        try:
            start = cls(**json.loads(metadata["config"]))
            start.load_state_dict({name: value.float() for name, value in tensors.items()})
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: not an amortised start that loads: {error}") from error
        return start.eval().requires_grad_(False)


def pool_for(latents: Sequence[int]) -> int:
    """The smallest pooling factor that leaves latents (C, h, w) at most `MAX_FEATURES` numbers."""
    channels, height, width = latents
    pool = 1
    while channels * (height // pool) * (width // pool) > MAX_FEATURES:
        pool += 1
    return pool
