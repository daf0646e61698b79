"""What algorithms may ask of a frozen text-to-image model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from invcap.data import fit_image
from invcap.data.images import open_image, to_rgb
from invcap.data.settings import MOST_PIXELS
from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.schedule import NoiseSchedule
from invcap.encoders.autoencoder import to_unit_range
from invcap.hashing import fingerprint, signature

ImageSource = Image.Image | str | Path
MAX_BATCH = 32
NEUTRAL = "a picture"


class FrozenTextToImage(ABC):
    """A diffusers pipeline whose networks are frozen; one subclass for each family of models.

    Costs are counted in evaluations of the denoiser: one is one latent at one step.

    Args:
        pipeline: of a class in `pipelines`.

    Attributes:
        pipelines: names of the diffusers classes that the family stands for.
        load_options: for `from_pretrained` of these classes.
        optimized: which tensor of a conditioning inversions optimize.
        schedule: of the noise.
        max_batch: latents that the denoiser takes at once.
    """

    pipelines: ClassVar[tuple[str, ...]]
    load_options: ClassVar[dict[str, Any]] = {}
    optimized: ClassVar[str] = "prompt_embeds"

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)
        for component in pipeline.components.values():
            if isinstance(component, nn.Module):
                component.eval().requires_grad_(False)
        self.schedule = NoiseSchedule.of(pipeline.scheduler)
        self.max_batch = MAX_BATCH

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The diffusers network that predicts noise, velocity or what the family calls it."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(height, width) of the images that the model was trained on, pixels."""

    @property
    @abstractmethod
    def pixels_per_latent(self) -> int:
        """Side of the square of pixels that one latent position stands for."""

    @property
    @abstractmethod
    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of one prompt's conditioning."""

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Maps pixels (P, 3, H, W) in [-1, 1] to scaled latents (P, C, h, w) float32."""

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Maps prompts to their conditioning, float32.

        Raises:
            ValueError: there is no prompt, or one is empty or too long.
        """

    @abstractmethod
    def check_prompt(self, prompt: str) -> None:
        """Raises ValueError unless a prompt has words, and not too many."""

    @property
    @abstractmethod
    def token_table(self) -> Tensor:
        """The vector of every token, (tokens, d) float32."""

    @property
    @abstractmethod
    def word_tokens(self) -> Sequence[int]:
        """The numbers of the tokens that are whole words: no parts of words, no bytes."""

    @abstractmethod
    def tokenize(self, prompt: str) -> list[int]:
        """The numbers of a prompt's tokens, without those of its start and end."""

    @abstractmethod
    def read_tokens(self, ids: Tensor) -> list[str]:
        """The text of N prompts of n tokens, (N, n)."""

    @abstractmethod
    def encode_tokens(self, vectors: Tensor) -> Conditioning:
        """Encodes N prompts of n tokens, whose vectors (N, n, d) are given, differentiably."""

    @abstractmethod
    def predict_noise(self, noisy: Tensor, steps: Tensor, conditioning: Conditioning) -> Tensor:
        """The noise in N noisy latents, differentiable by the conditioning.

        Args:
            noisy: (N, C, h, w) float32.
            steps: (N,), numbered from 0.
            conditioning: of N prompts.

        Returns:
            (N, C, h, w) float32.
        """

    def conditioning_of(self, optimized: Tensor) -> Conditioning:
        """N prompts by the tensor that inversions optimize; the others are those of `NEUTRAL`."""
        mine, count = {self.optimized: optimized}, len(optimized)
        if len(self.conditioning_shapes) == 1:
            return Conditioning(mine)
        others = self.neutral.map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))
        return others.replace(**mine)

    @cached_property
    def neutral(self) -> Conditioning:
        """A prompt that says nothing."""
        return self.encode_prompts([NEUTRAL])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the denoiser's weights; see `invcap.hashing.fingerprint`."""
        return fingerprint(self.denoiser)

    @cached_property
    def signature(self) -> list[float]:
        """What files for this model record of its denoiser; see `invcap.hashing.signature`."""
        return signature(self.denoiser)

    @property
    def name(self) -> str:
        """Folder or hub name that the model was loaded from; empty if it was not."""
        return self.pipeline.name_or_path or ""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser's weights."""
        return self.denoiser.dtype

    def to(self, *where: Any) -> FrozenTextToImage:
        """Moves the model to a device or casts it to a dtype, in place."""
        self.pipeline.to(*where)
        for cached in ("fingerprint", "neutral"):
            self.__dict__.pop(cached, None)
        return self

    def check_size(self, size: tuple[int, int]) -> None:
        """Raises ValueError unless latents can have the shape of images of this size."""
        unit = self.pixels_per_latent
        if min(size) < 1 or any(side % unit for side in size):
            raise ValueError(f"size must be multiples of {unit} pixels, got {size[0]} x {size[1]}")
        if size[0] * size[1] > MOST_PIXELS:
            raise ValueError(
                f"size must have at most {MOST_PIXELS:,} pixels, got {size[0]} x {size[1]}"
            )

    @torch.no_grad()
    def encode_images(
        self, images: ImageSource | Sequence[ImageSource], size: tuple[int, int] | None = None
    ) -> Tensor:
        """Maps images to scaled latents (P, C, h, w) float32.

        Args:
            images: images or paths, of any size: they are scaled and centre-cropped.
            size: (height, width) in pixels; by default the model's own.

        Raises:
            ValueError: there is no image, a file is not one, or the size does not fit the
                autoencoder.
        """
        size = size or self.size
        self.check_size(size)
        images = as_images(images)
        return torch.cat(
            [
                self.encode_pixels(to_unit_range(fit_image(image, size)[None].copy()))
                for image in images
            ]
        )

    @torch.no_grad()
    def generate(
        self,
        conditioning: Conditioning,
        seeds: Sequence[int],
        size: tuple[int, int] | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 25,
    ) -> list[Image.Image]:
        """Draws an image from each of P prompts, each with its own seed."""
        height, width = size or self.size
        return [
            self.pipeline(
                **{
                    name: tensor[row : row + 1].to(self.device, self.dtype)
                    for name, tensor in conditioning.tensors.items()
                },
                height=height,
                width=width,
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                generator=torch.Generator().manual_seed(seed),
            ).images[0]
            for row, seed in zip(range(len(conditioning)), seeds, strict=True)
        ]


def as_images(images: ImageSource | Sequence[ImageSource]) -> list[Image.Image]:
    """One image or several, as RGB images in memory.

    Raises:
        ValueError: there is none.
        OSError: a file is not an image; the message names it.
    """
    images = [images] if isinstance(images, ImageSource) else list(images)
    if not images:
        raise ValueError("images must hold at least one image, got none")
    return [
        to_rgb(image) if isinstance(image, Image.Image) else open_image(Path(image))
        for image in images
    ]
