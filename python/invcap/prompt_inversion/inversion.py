"""Ascent of the bound over a prompt's vectors, for many pictures at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from invcap.diffusion.noise_samples import draw_samples, standard_error
from invcap.diffusion.schedule import WEIGHTINGS, NoiseSchedule, Weighting
from invcap.prompt_inversion.parametrization import HiddenOf
from invcap.prompt_inversion.state import State

if TYPE_CHECKING:
    from invcap.prompt_inversion.pipeline import PromptInversionPipeline

SQUARE_MEMORY = 0.99
EPSILON = 1e-8
NORM_MEMORY = 0.9


@dataclass(frozen=True)
class InversionSettings:
    """How the bound is maximised.

    Attributes:
        steps: most gradient steps.
        learning_rate: of Adam, relative to the size of what is optimised; it falls to 0 as
            (1 - step / steps)^power.
        power: see there.
        momentum: decay of Adam's average of gradients. Where noise is small beside the gradients
            and steps are few, less of it is better.
        draws: pairs of step and noise for each gradient: UNet evaluations a step and picture.
        weighting: of the errors in the gradient, see `NoiseSchedule.weights`.
        within: first diffusion step that gradients see, and the one after the last; None for all.
        bank: pairs that gradients draw from; a multiple of `draws`.
        held_out: pairs of the other bank, which decides what is best.
        evaluate_every: gradient steps between measurements of the held-out bound.
        patience: measurements without a new best until the picture returns to its best with half
            the learning rate; None for never.
        max_rollbacks: a picture that would return more often, for whatever reason, stops.
        clip: gradients are clipped to so many times the running mean of their norm.
        average: decay of the moving average of vectors which is measured and kept in their
            place; 0 for the vectors themselves.
        snapshots: states kept between start and end, for pictures of the way.
        checkpoint_every: gradient steps between checkpoints.
    """

    steps: int = 300
    learning_rate: float = 0.07
    power: float = 1.0
    momentum: float = 0.9
    draws: int = 4
    weighting: Weighting = "balanced"
    within: tuple[int, int] | None = None
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
        for name in ("draws", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}")
        if self.bank < self.draws or self.bank % self.draws:
            raise ValueError(f"bank must be a multiple of draws, {self.draws}, got {self.bank}")
        if self.held_out < 2:
            raise ValueError(f"held_out must be at least 2, got {self.held_out}")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {self.weighting!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not self.clip > 0:
            raise ValueError(f"clip must be above 0, got {self.clip}")
        if not self.power >= 0:
            raise ValueError(f"power must be at least 0, got {self.power}")
        for name in ("momentum", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")


def few_steps(schedule: NoiseSchedule, **changes: Any) -> InversionSettings:
    """Settings for starts that are near, where most of the bound is left in the less noisy half.

    Args:
        schedule: of the model.
        changes: what shall be otherwise.
    """
    settings = InversionSettings(
        steps=12,
        learning_rate=0.05,
        power=1 / 3,
        momentum=0.5,
        weighting="elbo",
        within=(0, len(schedule) // 2),
        evaluate_every=4,
        patience=None,
    )
    return replace(settings, **changes)


@dataclass(frozen=True)
class History:
    """How one picture's inversion went; bounds in nats per latent number.

    Attributes:
        training: after each step, the bound (its part within `within`) as that step's few draws
            estimate it; NaN where that was not a number.
        evaluated: steps done at each measurement.
        held_out: the bound on the held-out bank at each.
        rollbacks: returns to the best.
    """

    training: list[float]
    evaluated: list[int]
    held_out: list[float]
    rollbacks: int


def history_of(state: State, row: int) -> History:
    """One picture's history, as far as it went."""
    measured = [
        (at, bounds[row].item()) for at, bounds in zip(state.evaluated, state.held_out, strict=True)
    ]
    measured = [(at, bound) for at, bound in measured if not isnan(bound)]
    return History(
        training=[bounds[row].item() for bounds in state.training[: state.taken[row]]],
        evaluated=[at for at, _ in measured],
        held_out=[bound for _, bound in measured],
        rollbacks=state.rollbacks[row].item(),
    )


@dataclass
class PromptInversionOutput(BaseOutput):
    """What `invert` returns, for P pictures.

    Attributes:
        prompt_embeds: (P, 77, d) float32, for `StableDiffusionPipeline(prompt_embeds=...)`.
        token_vectors: (P, n, d) float32 if those or tokens were optimised, else None.
        log_likelihood: (P,) float64, the held-out bound, nats per latent number.
        standard_error: (P,) float64, of it.
        steps: after how many gradient steps each picture was best; that is what is returned.
        unet_evaluations: what each picture cost, measurements included.
        histories: of each picture.
        snapshots: steps done -> hidden states then, (P, 77, d).
        images: one generated from each embedding.
        prompts: the likeliest prompt found in words for each picture; None if none was asked for.
        prompt_log_likelihood, prompt_standard_error: (P,) float64, its bound, on the same bank.
    """

    prompt_embeds: Tensor
    token_vectors: Tensor | None
    log_likelihood: Tensor
    standard_error: Tensor
    steps: list[int]
    unet_evaluations: list[int]
    histories: list[History]
    snapshots: dict[int, Tensor]
    images: list[Image.Image]
    prompts: list[str] | None = None
    prompt_log_likelihood: Tensor | None = None
    prompt_standard_error: Tensor | None = None


class Inversion:
    """P pictures on their way from a start to the prompts that are most likely.

    Every picture has its own banks, from its own seed, and its own optimiser, best state and
    stopping, so that it does not matter which others are in the batch.

    Args:
        pipeline: the model.
        latents: (P, C, h, w).
        start: (P, N, d) float32, the vectors to begin with; steps are relative to their size.
        seeds: one a picture.
        hidden_of: maps some pictures' vectors (A, N, d), and which pictures (A,), to hidden
            states (A, 77, d), differentiably.
        settings: see there.
    """

    def __init__(
        self,
        pipeline: PromptInversionPipeline,
        latents: Tensor,
        start: Tensor,
        seeds: Sequence[int],
        hidden_of: HiddenOf,
        settings: InversionSettings,
    ) -> None:
        self.pipeline = pipeline
        self.latents = latents
        self.start = start
        self.hidden_of = hidden_of
        self.settings = settings
        self.unit = start.square().mean((1, 2)).sqrt()
        schedule, shape = pipeline.schedule, tuple(latents.shape[1:])
        weights = schedule.weights(settings.weighting)
        rounds = settings.bank // settings.draws
        self.held_out, self.banks, self.noisy, self.order = [], [], [], []
        for clean, seed in zip(latents, seeds, strict=True):
            generator = torch.Generator().manual_seed(seed)
            self.held_out.append(draw_samples(schedule, settings.held_out, shape, generator))
            bank = draw_samples(schedule, settings.bank, shape, generator, settings.within, weights)
            # A step's draws are `rounds` apart: noise of opposite signs cancels in their mean.
            noise = bank.noise.view(settings.draws, rounds, *shape)
            noise[1::2] = -noise[: settings.draws - 1 : 2]
            self.banks.append(bank)
            self.noisy.append(schedule.noisy(clean[None], bank.noise, bank.steps))
            epochs = range(1 + settings.steps // rounds)
            self.order.append(
                torch.cat([torch.randperm(rounds, generator=generator) for _ in epochs])
            )
        self.bound_weights = schedule.weights() / latents[0].numel()

    def run(self, state: State, on_step: Callable[[State], None]) -> State:
        """Takes steps until there are enough or every picture has stopped.

        Raises:
            FloatingPointError: the bound of a start is not finite.
        """
        settings = self.settings
        kept = torch.linspace(0, settings.steps, settings.snapshots).round().int().tolist()
        if not state.evaluated:
            self._measure(state)
        while state.step < settings.steps and state.active.any():
            if state.step in kept:
                state.snapshots[state.step] = state.vectors.clone()
            self._climb(state)
            state.step += 1
            if state.step % settings.evaluate_every == 0 or state.step == settings.steps:
                self._measure(state)
            on_step(state)
        return state

    def _climb(self, state: State) -> None:
        """One step of Adam for each active picture."""
        rows = state.active.nonzero().flatten()
        gradient, bound = self.gradient(state.vectors[rows], rows, state.step)
        training = torch.full((len(state.vectors),), torch.nan, dtype=torch.float64)
        training[rows] = bound
        state.training.append(training)
        state.taken[rows] += 1
        state.evaluations[rows] += self.settings.draws
        finite = gradient.isfinite().all((1, 2)) & bound.isfinite()
        self._return_to_best(state, rows[~finite])
        self._update(state, rows[finite], gradient[finite])

    def gradient(self, vectors: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Of the weighted errors by the vectors of some pictures, and what they say of the bound.

        The draws of a step are spread evenly over the bank, which holds diffusion steps in
        proportion to their weights: its plain mean is the weighted one, up to a factor.

        Args:
            vectors: (A, N, d), of the pictures `rows`, (A,).
            step: whose draws are taken.

        Returns:
            The gradients, (A, N, d), and the bounds that these draws give, (A,) float64.
        """
        draws = self.settings.draws
        stride = self.settings.bank // draws
        picked = [torch.arange(draws) * stride + self.order[p][step] for p in rows.tolist()]
        pairs = list(zip(rows.tolist(), picked, strict=True))
        noisy = torch.cat([self.noisy[p][some] for p, some in pairs])
        noise = torch.cat([self.banks[p].noise[some] for p, some in pairs])
        steps = torch.cat([self.banks[p].steps[some] for p, some in pairs])
        importance = torch.cat([self.banks[p].importance[some] for p, some in pairs])
        weight = torch.ones(len(steps))
        owner = torch.arange(len(rows)).repeat_interleave(draws)

        vectors = vectors.clone().requires_grad_()
        hidden = self.hidden_of(vectors, rows)
        leaf = hidden.detach().requires_grad_()
        gradient, errors = torch.zeros_like(leaf), []
        for part in torch.arange(len(owner)).split(self.pipeline.unet_batch):
            found = self.pipeline.squared_errors(
                noisy[part], noise[part], steps[part], leaf[owner[part]], weight[part]
            )
            gradient += torch.autograd.grad(found.sum(), leaf)[0]
            errors.append(found.detach().double())
        (gradient,) = torch.autograd.grad(hidden, vectors, gradient)
        terms = torch.cat(errors) * self.bound_weights[steps] * importance
        constant = self.pipeline.schedule.constant(self.latents[rows])
        return gradient / draws, constant - terms.view(len(rows), draws).mean(1)

    def _update(self, state: State, rows: Tensor, gradient: Tensor) -> None:
        """Adam on some pictures' rows, with the gradient's norm clipped to its usual size."""
        norm = gradient.flatten(1).norm(dim=1)
        usual = torch.where(state.norm[rows] > 0, state.norm[rows], norm)
        clipped = torch.minimum(norm, self.settings.clip * usual)
        state.norm[rows] = usual.lerp(clipped, 1 - NORM_MEMORY)
        gradient = gradient * (clipped / norm.clamp(min=EPSILON))[:, None, None]
        state.updates[rows] += 1
        momentum = self.settings.momentum
        state.momentum[rows] = state.momentum[rows].lerp(gradient, 1 - momentum)
        state.square[rows] = state.square[rows].lerp(gradient.square(), 1 - SQUARE_MEMORY)
        count = state.updates[rows][:, None, None]
        mean = state.momentum[rows] / (1 - momentum**count)
        deviation = (state.square[rows] / (1 - SQUARE_MEMORY**count)).sqrt()
        left = 1 - state.step / self.settings.steps
        rate = self.settings.learning_rate * left**self.settings.power
        size = rate * (state.rate * self.unit)[rows][:, None, None]
        state.vectors[rows] -= size * mean / (deviation + EPSILON)
        state.average[rows] = state.vectors[rows].lerp(state.average[rows], self.settings.average)

    @torch.no_grad()
    def _measure(self, state: State) -> None:
        """Measures the held-out bound of each active picture; keeps what is best."""
        rows = state.active.nonzero().flatten()
        hidden = self.hidden_of(state.average[rows], rows)
        bounds = torch.full((len(state.vectors),), torch.nan, dtype=torch.float64)
        for row, states in zip(rows.tolist(), hidden, strict=True):
            terms = self.pipeline.bound_terms(self.latents[row], states, self.held_out[row])
            bounds[row] = terms.mean()
            if bounds[row] > state.best_bound[row]:
                state.best[row] = state.average[row]
                state.best_bound[row], state.best_error[row] = bounds[row], standard_error(terms)
                state.best_step[row], state.stale[row] = state.step, 0
            else:
                state.stale[row] += 1
        state.evaluations[rows] += self.settings.held_out
        state.evaluated.append(state.step)
        state.held_out.append(bounds)
        if state.step == 0 and not bounds.isfinite().all():
            raise FloatingPointError(
                f"the bound of the start must be finite, got {bounds.tolist()} for the pictures"
            )
        if self.settings.patience is not None:
            self._return_to_best(state, rows[state.stale[rows] >= self.settings.patience])

    def _return_to_best(self, state: State, rows: Tensor) -> None:
        """Puts pictures back to their best with half the step; after too many returns they stop."""
        state.vectors[rows] = state.average[rows] = state.best[rows]
        state.momentum[rows] = state.square[rows] = 0.0
        state.updates[rows] = state.stale[rows] = 0
        state.rate[rows] /= 2
        state.rollbacks[rows] += 1
        state.active[rows] = state.rollbacks[rows] <= self.settings.max_rollbacks
