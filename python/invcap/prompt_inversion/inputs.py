"""Checks of an inversion's arguments, before any image is read."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.noise_samples import check_timestep_range
from invcap.prompt_inversion.parametrization import OVER_TOKENS, Parametrization, check_over
from invcap.prompt_inversion.settings import InversionSettings
from invcap.prompt_inversion.starts import LEARNED, LearnedStarts, Start, check_latents


def check_inputs(
    learned: LearnedStarts,
    settings: InversionSettings,
    start: Start,
    over: Parametrization,
    size: tuple[int, int],
    guidance_scale: float,
    has_captioner: bool,
    words: bool,
    has_sentences: bool = False,
) -> None:
    """Raises ValueError unless a model can invert with these; see `PromptInversionPipeline`.

    Args:
        learned: the model's learned starts.
        size: (height, width), in pixels.
        has_sentences: whether there is a bank or a proposer to find words with.
    """
    model = learned.model
    model.check_size(size)
    if settings.timestep_range is not None:
        check_timestep_range(model.schedule, settings.timestep_range)
    if not (isfinite(guidance_scale) and guidance_scale >= 0):
        raise ValueError(f"guidance_scale must be finite and at least 0, got {guidance_scale}")
    check_over(model, over)
    encoded = isinstance(start, Tensor | Conditioning) or start in LEARNED
    if encoded and over in OVER_TOKENS:
        raise ValueError(f"start must be sentences over {over!r}, got an embedding")
    if encoded and words and not (has_captioner or has_sentences):
        raise ValueError(
            "words need sentences, a proposer, a captioner or a start that is a sentence, got none"
        )
    check_start(start, learned, size, has_captioner, over)


def check_draws(draws: int) -> None:
    """Raises ValueError unless there are enough noise samples for a standard error."""
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}")


def check_start(
    start: Start,
    learned: LearnedStarts,
    size: tuple[int, int],
    has_captioner: bool,
    over: Parametrization,
) -> None:
    """Raises ValueError unless a start can be used for images of a size, (height, width)."""
    model = learned.model
    if isinstance(start, Tensor | Conditioning):
        return
    if start == "caption":
        if not has_captioner:
            raise ValueError("start 'caption' needs a captioner, got none")
    elif start == "amortised":
        unit = model.pixels_per_latent
        check_latents(learned, (size[0] // unit, size[1] // unit))
    elif start == "meta":
        _ = learned.meta
    else:
        check = model.check_tokens if over in OVER_TOKENS else model.check_prompt
        for prompt in [start] if isinstance(start, str) else start:
            check(prompt)


def resolve_seeds(seeds: int | Sequence[int], count: int) -> list[int]:
    """One seed for each image: those given, or consecutive numbers from one that is given.

    Raises:
        ValueError: the number of seeds is not that of images.
    """
    result = [seeds + index for index in range(count)] if isinstance(seeds, int) else list(seeds)
    if len(result) != count:
        raise ValueError(f"seeds must be one, or one for each of {count} images, got {len(result)}")
    return result
