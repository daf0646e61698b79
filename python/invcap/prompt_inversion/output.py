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
    """How one image's inversion went; bounds in nats per latent number.

    Attributes:
        training: after each step, the bound (its part within `timestep_range`) as that step's few
            draws estimate it; NaN where that was not a number.
        evaluated: steps done at each measurement.
        held_out: the bound on the held-out noise samples at each.
        rollbacks: returns to the best.
    """

    training: list[float]
    evaluated: list[int]
    held_out: list[float]
    rollbacks: int


def history_of(state: State, row: int) -> History:
    """One image's history, as far as it went."""
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
        conditioning: all tensors of the prompts, named as the pipeline's call takes them.
        token_vectors: (P, n, d) float32 if those or tokens were optimized, else None.
        log_likelihood: (P,) float64, the held-out bound, nats per latent number.
        standard_error: (P,) float64, of it.
        steps: after how many gradient steps each image was best; that is what is returned.
        unet_evaluations: what each image cost, measurements included.
        histories: of each image.
        snapshots: steps done -> conditioning then, of P prompts.
        images: one generated from each embedding.
        prompts: the likeliest prompt found in words for each image; None if none was asked for.
        prompt_log_likelihood, prompt_standard_error: (P,) float64, its bound, on the same noise
            samples.
        prompt_evaluations: what the search for it cost each image, without gradients; they are
            among `unet_evaluations`.
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
