"""The interface of a frozen text-to-image model to the algorithms that use it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from invcap.data import fit_image
from invcap.data.images import ImageSource, as_images
from invcap.data.settings import MOST_PIXELS
from invcap.diffusion.conditioning import Conditioning, concatenate
from invcap.diffusion.distilled import named_distilled
from invcap.diffusion.images import encode_mean
from invcap.diffusion.kept_weights import keep_weights
from invcap.diffusion.schedule import NoiseSchedule, Schedule
from invcap.diffusion.text import word_tokens
from invcap.encoders.autoencoder import to_unit_range
from invcap.hashing import fingerprint, signature

MAX_BATCH = 32
MOST_POSITIONS = 64 * 64
PROMPTS_AT_ONCE = 8
NEUTRAL = "a picture"


def few(prompts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Prompts, as many at a time as are encoded and compared at once."""
    for first in range(0, len(prompts), PROMPTS_AT_ONCE):
        yield prompts[first : first + PROMPTS_AT_ONCE]


class FrozenTextToImage(ABC):
    """A diffusers pipeline whose networks are frozen; one subclass for each family of models.

    Costs are counted in evaluations of the denoiser: one is one latent at one step.

    Args:
        pipeline: of a class in `pipelines`.

    Attributes:
        pipelines: names of the diffusers classes that the family stands for.
        single_files: what diffusers calls the models that one file may hold of these classes.
        load_options: for `from_pretrained` of these classes.
        optimized: which tensor of a conditioning inversions optimize.
        pooled: which other tensor they may optimize too; None if there is none.
        word_marks: what the vocabulary puts before and after a word.
        schedule_class: of its schedule.
        schedule: of the noise.
        max_batch: latents that the denoiser takes at once, if they are small; see `batch_size`.
    """

    pipelines: ClassVar[tuple[str, ...]]
    single_files: ClassVar[tuple[str, ...]] = ()
    load_options: ClassVar[dict[str, Any]] = {}
    optimized: ClassVar[str] = "prompt_embeds"
    pooled: ClassVar[str | None] = None
    word_marks: ClassVar[tuple[str, str]] = ("", "")
    schedule_class: ClassVar[type[Schedule]] = NoiseSchedule

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)
        for network in self.networks:
            network.eval().requires_grad_(False)
        self.schedule: Any = self.schedule_class.of(pipeline.scheduler)
        self.max_batch = MAX_BATCH
        self._offloaded_from: torch.device | None = None

    @property
    def networks(self) -> list[nn.Module]:
        """The denoiser, the text encoders and the autoencoder."""
        return [part for part in self.pipeline.components.values() if isinstance(part, nn.Module)]

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The diffusers network that predicts noise, velocity or what the family calls it."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images that the model was trained on, pixels."""
        side = self.pipeline.default_sample_size * self.pixels_per_latent
        return side, side

    @property
    def pixels_per_latent(self) -> int:
        """Side of the square of pixels that one latent position stands for."""
        return self.pipeline.vae_scale_factor

    @property
    def size_unit(self) -> int:
        """What the sides of images are multiples of, pixels."""
        return self.pixels_per_latent

    @property
    def distilled(self) -> str | None:
        """Why the model's bound is no likelihood of data; None if it is one."""
        if self.denoiser.config.get("time_cond_proj_dim") is not None:
            return "its guidance is an input"
        return named_distilled(self.name)

    @property
    @abstractmethod
    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of one prompt's conditioning."""

    @property
    def optimized_tokens(self) -> int:
        """How many of the first rows of the tensor `optimized` inversions change."""
        return self.conditioning_shapes[self.optimized][0]

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Maps pixels (P, 3, H, W) in [-1, 1] to scaled latents (P, C, h, w) float32."""
        return encode_mean(self.pipeline.vae, pixels, self.device)

    def batch_size(self, height: int, width: int) -> int:
        """How many latents of a size the denoiser takes at once: one of 64 x 64 or larger."""
        return max(1, min(self.max_batch, MOST_POSITIONS // (height * width)))

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Maps prompts to their conditioning, float32, eight at a time.

        Raises:
            ValueError: there is no prompt, or one is empty or too long.
        """
        self.check_prompts(prompts)
        self.release()
        return concatenate([self.encode_few(part) for part in few(prompts)])

    @abstractmethod
    def encode_few(self, prompts: Sequence[str]) -> Conditioning:
        """Maps at most eight prompts, which have been checked, to their conditioning, float32."""

    @abstractmethod
    def check_prompt(self, prompt: str) -> None:
        """Raises ValueError unless a prompt has words, and not too many."""

    def check_tokens(self, prompt: str) -> None:
        """Raises ValueError unless token vectors can stand for a prompt's words."""
        self.check_prompt(prompt)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raises ValueError unless there are prompts, and each has words and not too many."""
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts must be a list of at least one sentence, got {prompts!r}")
        for prompt in prompts:
            self.check_prompt(prompt)

    def can_read(self, prompt: str) -> bool:
        """Whether a prompt has words, and not too many."""
        try:
            self.check_prompt(prompt)
        except ValueError:
            return False
        return True

    @property
    @abstractmethod
    def token_table(self) -> Tensor:
        """The vector of every token, (tokens, d) float32."""

    @property
    @abstractmethod
    def token_parts(self) -> dict[str, int]:
        """Text encoders that read a token, as other programs call them, and their share of d."""

    @property
    def tokenizer(self) -> Any:
        """Splits prompts into the tokens that vectors stand for."""
        return self.pipeline.tokenizer

    @cached_property
    def word_tokens(self) -> Sequence[int]:
        """The numbers of the tokens that are whole words: no parts of words, no bytes."""
        return word_tokens(self.tokenizer, *self.word_marks)

    def tokenize(self, prompt: str) -> list[int]:
        """The numbers of a prompt's tokens, without those of its start and end."""
        return self.tokenizer(prompt, add_special_tokens=False).input_ids

    def read_tokens(self, ids: Tensor) -> list[str]:
        """The text of N prompts of n tokens, (N, n)."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids)]

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
        """A prompt without content."""
        return self.encode_prompts([NEUTRAL])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the denoiser's weights; see `invcap.hashing.fingerprint`."""
        return fingerprint(self.denoiser)

    @cached_property
    def signature(self) -> list[float]:
        """Norms of the denoiser's weights, recorded in files; see `invcap.hashing.signature`."""
        return signature(self.denoiser)

    @property
    def name(self) -> str:
        """Folder or hub name that the model was loaded from; empty if it was not."""
        return self.pipeline.name_or_path or ""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._offloaded_from or self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype that the denoiser computes in."""
        return self.denoiser.dtype

    def to(self, *where: Any) -> FrozenTextToImage:
        """Moves the model to a device or casts it to a dtype, in place."""
        self.pipeline.to(*where)
        self._forget()
        return self

    def compute_in(self, dtype: torch.dtype) -> FrozenTextToImage:
        """Lets weights keep their dtype, in which they take less memory, and computes in another.

        Each weight is converted whenever a layer uses it: slower, but as exact as in that dtype.
        """
        for network in self.networks:
            keep_weights(network, dtype=dtype)
        self._forget()
        return self

    def enable_offload(self, device: torch.device | str) -> FrozenTextToImage:
        """Keeps the networks on the CPU, and one at a time on a device, while it computes."""
        self.pipeline.enable_model_cpu_offload(device=device)
        self._offloaded_from = torch.device(device)
        return self

    def enable_group_offload(self, device: torch.device | str) -> FrozenTextToImage:
        """Keeps all weights on the CPU; on a device is only the layer that computes.

        For networks of which not even one fits on the device. Gradients work too.
        """
        for network in self.networks:
            keep_weights(network, torch.device(device))
        self._forget()
        return self

    def _forget(self) -> None:
        for cached in ("fingerprint", "neutral"):
            self.__dict__.pop(cached, None)

    def release(self) -> None:
        """Takes all networks off the device, if they are offloaded."""
        if self._offloaded_from is not None:
            self.pipeline.maybe_free_model_hooks()

    def check_size(self, size: tuple[int, int]) -> None:
        """Raises ValueError unless latents can have the shape of images of this size."""
        unit = self.size_unit
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

    def trim(self, conditioning: Conditioning) -> Conditioning:
        """One prompt's conditioning as files and the pipeline's call have it."""
        return conditioning

    def pad(self, conditioning: Conditioning) -> Conditioning:
        """One prompt's conditioning, of `conditioning_shapes`, from what `trim` returned."""
        return conditioning

    def call_arguments(self, conditioning: Conditioning, guidance_scale: float) -> dict[str, Any]:
        """What the pipeline's call is told of one prompt."""
        tensors = {
            name: tensor.to(self.device, self.dtype)
            for name, tensor in self.trim(conditioning).tensors.items()
        }
        return {**tensors, "guidance_scale": guidance_scale}

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
                **self.call_arguments(conditioning[row : row + 1], guidance_scale),
                height=height,
                width=width,
                num_inference_steps=num_inference_steps,
                generator=torch.Generator().manual_seed(seed),
            ).images[0]
            for row, seed in zip(range(len(conditioning)), seeds, strict=True)
        ]
