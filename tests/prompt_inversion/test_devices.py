"""An inversion's step on tensors without data: device "meta", and fake tensors of a GPU.

torch raises where a tensor of the CPU slips into either.
"""

import pytest
import torch
from fake_gpu import fake_gpu, move_without_data
from random_pipeline import make_pipeline
from torch import nn

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.families import frozen
from invcap.diffusion.model import FrozenTextToImage
from invcap.prompt_inversion import InversionSettings
from invcap.prompt_inversion.objective import Objective, squared_errors
from invcap.prompt_inversion.optimizer import adam_step, return_to_best, take_step
from invcap.prompt_inversion.parametrization import parametrize
from invcap.prompt_inversion.state import State

SETTINGS = InversionSettings(steps=8, draws=4, bank=16, held_out=8, average=0.5)
each_parametrization = pytest.mark.parametrize("over", ["hidden_states", "token_vectors", "tokens"])


def move_(model: FrozenTextToImage, device: str) -> None:
    for network in model.pipeline.components.values():
        if isinstance(network, nn.Module):
            move_without_data(network, device)


@pytest.fixture
def model() -> FrozenTextToImage:
    return frozen(make_pipeline())


def problem(model: FrozenTextToImage, over: str, device: str) -> tuple[Objective, State]:
    move_(model, device)
    latents = torch.empty(3, 4, 8, 8, device=device)
    starts = ["a room"] * 3
    if over == "hidden_states":
        starts = Conditioning({"prompt_embeds": torch.empty(3, 77, 16, device=device)})
    axes = torch.empty(16, 16, device=device)
    vectors, conditioning_of = parametrize(model, starts, over, axes)
    objective = Objective(model, latents, conditioning_of, [0, 1, 2], SETTINGS)
    return objective, State.start(vectors)


def same_places(state: State, device: str) -> bool:
    tensors = [value for value in vars(state).values() if isinstance(value, torch.Tensor)]
    return all(value.device.type == device for value in [*tensors, *state.training])


@each_parametrization
def test_a_step_with_its_gradient_stays_on_the_device(model, over):
    objective, state = problem(model, over, "meta")
    rows = torch.empty(2, dtype=torch.int64, device="meta")
    take_step(objective, state, rows, SETTINGS)
    assert objective.held_out_terms(state.average[rows], rows).shape == (2, 8)
    assert len(state.training) == 1 and same_places(state, "meta")


@pytest.mark.slow
@each_parametrization
def test_a_step_without_its_gradient_stays_on_a_gpu(model, over):
    with fake_gpu():
        objective, state = problem(model, over, "cuda")
        rows = torch.arange(2, device="cuda")
        noisy, samples, owner = objective.draw(rows, 0)
        conditioning = objective.conditioning_of(state.vectors[rows], rows)
        weight = torch.ones(8, device="cuda")
        found = squared_errors(
            objective.model, noisy, samples.noise, samples.steps, conditioning[owner], weight
        )
        terms = objective.held_out_terms(state.average[rows], rows)
        assert found.shape == (8,) and terms.shape == (2, 8)
        assert found.device.type == terms.device.type == "cuda"
        moving = torch.ones(2, dtype=torch.bool, device="cuda")
        adam_step(state, rows, moving, torch.empty_like(state.vectors[rows]), SETTINGS)
        return_to_best(state, rows, moving, SETTINGS)
        assert same_places(state, "cuda")


def test_nothing_is_moved_in_a_step(model, monkeypatch):
    objective, state = problem(model, "tokens", "meta")
    rows = torch.empty(3, dtype=torch.int64, device="meta")
    take_step(objective, state, rows, SETTINGS)
    moves = []
    to = torch.Tensor.to

    def watched(self, *arguments, **options):
        result = to(self, *arguments, **options)
        if result.device != self.device:
            moves.append(self.shape)
        return result

    monkeypatch.setattr(torch.Tensor, "to", watched)
    for name in ("item", "tolist", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, lambda self, name=name: moves.append(name))
    state.step += 1
    take_step(objective, state, rows, SETTINGS)
    assert not moves
