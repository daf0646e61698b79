"""What an inversion returns."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.prompt_inversion.state import State


@dataclass(frozen=True)
class History:
    """The course of one image's inversion; bounds in nats per latent number.

    Attributes:
        training: each step's estimate of the bound (its part within `timestep_range`) from that
            step's few samples; NaN if it was not finite.
        evaluated: steps done at each measurement.
        held_out: the bound on the held-out noise samples at each measurement.
        rollbacks: how often it was reset to the best state.
    """

    training: list[float]
    evaluated: list[int]
    held_out: list[float]
    rollbacks: int


def history_of(state: State, row: int) -> History:
    """The history of one image, until it stopped."""
    measured = [
        (at, bounds[row].item()) for at, bounds in zip(state.evaluated, state.held_out, strict=True)
    ]
    measured = [(at, bound) for at, bound in measured if not isnan(bound)]
    return History(
        training=[bounds[row].item() for bounds in state.training[: state.taken[row]]],
        evaluated=[at for at, _ in measured],
        held_out=[bound for _, bound in measured],
        rollbacks=int(state.rollbacks[row]),
    )


@dataclass
class PromptInversionOutput(BaseOutput):
    """What `invert` returns for P images, on the CPU.

    Attributes:
        prompt_embeds: (P, 77, d) float32, for `StableDiffusionPipeline(prompt_embeds=...)`.
        conditioning: all tensors of the prompts, by their names in the pipeline's call.
        token_vectors: (P, n, d) float32 if token vectors or tokens were optimized, else None.
        log_likelihood: (P,) float64, the held-out bound, nats per latent number.
        standard_error: (P,) float64, its standard error.
        steps: the gradient step after which each image had its best bound, which is returned.
        unet_evaluations: number of UNet evaluations for each image, with those of measurements.
        histories: one for each image.
        snapshots: steps done -> the P prompts' conditioning at that step.
        images: one generated from each embedding.
        prompts: the likeliest prompt in words for each image; None without `words`.
        prompt_log_likelihood, prompt_standard_error: (P,) float64, its bound, on the same noise
            samples.
        prompt_evaluations: UNet evaluations, without gradient, of the search for words; they are
            included in `unet_evaluations`.
    """

    prompt_embeds: Tensor
    conditioning: dict[str, Tensor]
    token_vectors: Tensor | None
    log_likelihood: Tensor
    standard_error: Tensor
    steps: list[int]
    unet_evaluations: list[int]
    histories: list[History]
    snapshots: dict[int, Conditioning]
    images: list[Image.Image]
    prompts: list[str] | None = None
    prompt_log_likelihood: Tensor | None = None
    prompt_standard_error: Tensor | None = None
    prompt_evaluations: list[int] | None = None
