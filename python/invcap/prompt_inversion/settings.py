"""How inversions maximize the bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from invcap.checks import check_at_least, check_finite, check_fraction
from invcap.diffusion.schedule import WEIGHTINGS, Schedule, Weighting

WARM_STARTS = ("caption", "amortised")


@dataclass(frozen=True)
class InversionSettings:
    """How the bound is maximized.

    Attributes:
        steps: the largest number of gradient steps.
        learning_rate: Adam's learning rate, relative to the root mean square of what is optimized;
            it falls to 0 as (1 - step / steps)^lr_decay_power.
        lr_decay_power: exponent of the learning rate's decay.
        momentum: decay of Adam's average of gradients. With few steps and little gradient noise,
            lower values are better.
        draws: noise samples for each gradient: denoiser evaluations per step and image.
        weighting: weights of the errors in the gradient, see `NoiseSchedule.weights`.
        timestep_range: first diffusion step of the gradients' samples, and the one after the last;
            None for all steps.
        bank: number of noise samples that gradients choose from; a multiple of `draws`.
        held_out: number of other noise samples, on which the best state is chosen.
        evaluate_every: gradient steps between measurements of the held-out bound.
        patience: measurements without a new best after which an image is reset to its best state
            with half the learning rate; None for never.
        max_rollbacks: an image that would be reset more often than this stops.
        clip: gradients are clipped to this multiple of the running mean of their norm.
        average: decay of a moving average of the vectors, which is measured and kept instead of
            them; 0 for the vectors themselves.
        snapshots: number of states kept between start and end, for the strip of images.
        checkpoint_every: gradient steps between checkpoints.
    """

    steps: int = 300
    learning_rate: float = 0.07
    lr_decay_power: float = 1.0
    momentum: float = 0.9
    draws: int = 4
    weighting: Weighting = "balanced"
    timestep_range: tuple[int, int] | None = None
    bank: int = 256
    held_out: int = 64
    evaluate_every: int = 25
    patience: int | None = 4
    max_rollbacks: int = 4
    clip: float = 2.0
    average: float = 0.0
    snapshots: int = 6
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        check_at_least(self, 0, "steps", "max_rollbacks", "snapshots")
        check_at_least(self, 1, "draws", "evaluate_every", "patience", "checkpoint_every")
        check_at_least(self, 2, "held_out")
        if self.bank < self.draws or self.bank % self.draws:
            raise ValueError(f"bank must be a multiple of draws, {self.draws}, got {self.bank}")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {self.weighting!r}")
        check_finite(self, "learning_rate", "clip", above_zero=True)
        check_finite(self, "lr_decay_power", above_zero=False)
        check_fraction(self, "momentum", "average", one=False)


def few_steps(schedule: Schedule, **overrides: Any) -> InversionSettings:
    """Settings for warm starts: most of what can still be gained is in the less noisy half.

    Args:
        schedule: the model's noise schedule.
        overrides: fields to replace.
    """
    settings = InversionSettings(
        steps=12,
        learning_rate=0.05,
        lr_decay_power=1 / 3,
        momentum=0.5,
        weighting="elbo",
        timestep_range=(0, len(schedule) // 2),
        evaluate_every=4,
        patience=None,
    )
    return replace(settings, **overrides)


def default_settings(start: Any, schedule: Schedule, **overrides: Any) -> InversionSettings:
    """Settings that suit a start: `few_steps` for warm ones, else `InversionSettings()`.

    Args:
        start: see `PromptInversionPipeline.invert`.
        schedule: the model's noise schedule.
        overrides: fields to replace.
    """
    if isinstance(start, str) and start in WARM_STARTS:
        return few_steps(schedule, **overrides)
    return InversionSettings(**overrides)
