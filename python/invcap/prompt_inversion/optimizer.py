"""Batched Adam: each image has its own best state, rollbacks and stopping."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invcap.diffusion.noise_samples import standard_error
from invcap.prompt_inversion.objective import Maximized
from invcap.prompt_inversion.settings import InversionSettings
from invcap.prompt_inversion.state import State

SQUARE_MEMORY = 0.99
EPSILON = 1e-8
NORM_MEMORY = 0.9


def maximize(
    objective: Maximized,
    state: State,
    settings: InversionSettings,
    on_step: Callable[[State], object] = lambda state: None,
) -> State:
    """Takes steps until all are done, every image has stopped, or `on_step` returns False.

    Which images have stopped is read from the device only when the held-out bound is measured.
    Until then, images that stop are still computed, but no longer change.

    Raises:
        FloatingPointError: the bound of a start is not finite.
    """
    kept = torch.linspace(0, settings.steps, settings.snapshots).round().int().tolist()
    if not state.evaluated:
        measure(objective, state, settings)
    rows = state.running.nonzero().flatten()
    while state.step < settings.steps and len(rows):
        if state.step in kept:
            state.snapshots[state.step] = state.vectors.clone()
        take_step(objective, state, rows, settings)
        state.step += 1
        if state.step % settings.evaluate_every == 0 or state.step == settings.steps:
            measure(objective, state, settings)
            rows = state.running.nonzero().flatten()
        if on_step(state) is False:
            break
    return state


def take_step(
    objective: Maximized, state: State, rows: Tensor, settings: InversionSettings
) -> None:
    """Takes one gradient step for the images `rows`, (A,), without a transfer from the device."""
    gradient, bound = objective.gradient(state.vectors[rows], rows, state.step)
    active = state.active[rows]
    finite = gradient.isfinite().flatten(1).all(1) & bound.isfinite()
    training = torch.full_like(state.best_bound, torch.nan)
    training[rows] = torch.where(active, bound, torch.nan)
    state.training.append(training)
    state.taken[rows] += active
    state.evaluations[rows] += settings.draws * objective.images * active
    return_to_best(state, rows, active & ~finite, settings)
    adam_step(state, rows, active & finite, gradient, settings)


def adam_step(
    state: State, rows: Tensor, moving: Tensor, gradient: Tensor, settings: InversionSettings
) -> None:
    """Adam's step, with the norm of each gradient clipped to a multiple of its running mean.

    Args:
        state: the state, which is changed.
        rows: (A,), images.
        moving: (A,) bool, which of them take the step.
        gradient: (A, N, d).
        settings: how the bound is maximized.
    """
    norm = gradient.flatten(1).norm(dim=1)
    usual = torch.where(state.norm[rows] > 0, state.norm[rows], norm)
    clipped = torch.minimum(norm, settings.clip * usual)
    gradient = gradient * (clipped / norm.clamp(min=EPSILON))[:, None, None]
    updates = state.updates[rows] + 1
    momentum = state.momentum[rows].lerp(gradient, 1 - settings.momentum)
    square = state.square[rows].lerp(gradient.square(), 1 - SQUARE_MEMORY)
    count = updates[:, None, None]
    mean = momentum / (1 - settings.momentum**count)
    deviation = (square / (1 - SQUARE_MEMORY**count)).sqrt()
    left = 1 - state.step / settings.steps
    rate = settings.learning_rate * left**settings.lr_decay_power
    size = rate * (state.rate * state.unit)[rows][:, None, None]
    vectors = state.vectors[rows] - size * mean / (deviation + EPSILON)
    average = vectors.lerp(state.average[rows], settings.average)
    state.put(
        rows,
        moving,
        norm=usual.lerp(clipped, 1 - NORM_MEMORY),
        updates=updates,
        momentum=momentum,
        square=square,
        vectors=vectors,
        average=average,
    )


@torch.no_grad()
def measure(objective: Maximized, state: State, settings: InversionSettings) -> None:
    """Measures the held-out bound of each active image, and keeps the best state.

    Raises:
        FloatingPointError: the bound of a start is not finite.
    """
    rows = state.active.nonzero().flatten()
    bounds = torch.full_like(state.best_bound, torch.nan)
    if len(rows):
        terms = objective.held_out_terms(state.average[rows], rows)
        bounds[rows] = terms.mean(1)
        better = bounds[rows] > state.best_bound[rows]
        state.put(
            rows,
            better,
            best=state.average[rows],
            best_bound=bounds[rows],
            best_error=standard_error(terms),
            best_step=torch.full_like(state.best_step[rows], state.step),
        )
        state.stale[rows] = torch.where(better, 0, state.stale[rows] + 1)
        state.evaluations[rows] += settings.held_out * objective.images
    state.evaluated.append(state.step)
    state.held_out.append(bounds)
    if state.step == 0 and not bounds.isfinite().all():
        raise FloatingPointError(
            f"the bound of the start must be finite, got {bounds.tolist()} for the images"
        )
    if settings.patience is not None:
        return_to_best(state, rows, state.stale[rows] >= settings.patience, settings)
    state.running = state.active.clone()


def return_to_best(
    state: State, rows: Tensor, returning: Tensor, settings: InversionSettings
) -> None:
    """Resets images to their best state with half the learning rate; after too many they stop.

    Args:
        state: the state, which is changed.
        rows: (A,), images.
        returning: (A,) bool, which of them are reset.
        settings: how the bound is maximized.
    """
    best, rollbacks = state.best[rows], state.rollbacks[rows] + 1
    state.put(
        rows,
        returning,
        vectors=best,
        average=best,
        momentum=torch.zeros_like(best),
        square=torch.zeros_like(best),
        updates=torch.zeros_like(rollbacks),
        stale=torch.zeros_like(rollbacks),
        rate=state.rate[rows] / 2,
        rollbacks=rollbacks,
        active=rollbacks <= settings.max_rollbacks,
    )
