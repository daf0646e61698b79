import pytest
import torch

from invcap.files import write_tensors
from invcap.prompt_inversion import PromptInversionPipeline, few_steps
from invcap.prompt_inversion.axes import DRAWS, FILE, learn_axes, load_axes, save_axes
from invcap.prompt_inversion.parametrization import parametrize
from invcap.prompt_inversion.state import State


def problem(pipeline, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    latents = 0.1 * torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return latents, pipeline.model.encode_prompts(["a room", "a red square"] * (count // 2))


def test_axes_are_principal_axes_of_gradients_of_length_one(pipeline):
    latents, hidden = problem(pipeline, 40)  # more than go at once
    axes = learn_axes(pipeline, latents, hidden, seed=3)
    torch.testing.assert_close(axes.T @ axes, torch.eye(16), rtol=0, atol=1e-5)
    settings = few_steps(pipeline.model.schedule, draws=DRAWS, bank=DRAWS)
    moment = torch.zeros(16, 16)
    for index in range(40):
        one = slice(index, index + 1)
        inversion = Inversion(
            pipeline, latents[one], hidden[one], [3 + index], lambda v, rows: v, settings
        )
        gradient = inversion.gradient(hidden[one], torch.tensor([0]), 0)[0][0]
        moment += gradient.T @ gradient / gradient.square().sum()
    assert moment.trace().item() == pytest.approx(40, rel=1e-4)
    variances = axes.T @ moment @ axes
    assert (variances.diagonal().diff() > -1e-4).all()
    torch.testing.assert_close(variances, variances.diagonal().diag(), rtol=0, atol=1e-3)
    # Features as they are would not do.
    assert (moment - moment.diagonal().diag()).abs().max() > 0.1


def test_adams_first_step_is_of_one_size_along_each_axis(pipeline):
    latents, hidden = problem(pipeline, 2)
    axes = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0]
    settings = few_steps(pipeline.model.schedule, steps=1, held_out=4, learning_rate=0.1)
    vectors, hidden_of = parametrize(pipeline, hidden, "hidden_states", axes)
    torch.testing.assert_close(hidden_of(vectors, torch.arange(2)), hidden, rtol=0, atol=1e-5)
    inversion = Inversion(pipeline, latents, vectors, [0, 1], hidden_of, settings)
    state = inversion.run(State.start(vectors), lambda state: None)
    moved = (hidden_of(state.vectors, torch.arange(2)) - hidden) @ axes
    unit = hidden.square().mean((1, 2)).sqrt()[:, None, None]
    relative = (moved / (0.1 * unit)).abs()
    # Where a gradient is 0, as it can be, Adam stays.
    assert ((relative - 1).abs() < 1e-2).float().mean() > 0.95


def test_inversions_go_along_the_axes_in_the_starts_folder(pipeline, pictures, tmp_path):
    settings = few_steps(pipeline.model.schedule, steps=4, held_out=8)
    without = pipeline.invert(pictures[:1], "a room", settings, starts=tmp_path)
    ways = []
    for axes in (torch.eye(16), torch.linalg.qr(torch.randn(16, 16))[0]):
        save_axes(tmp_path, axes, pipeline)
        found = pipeline.invert(pictures[:1], "a room", settings, starts=tmp_path)
        ways.append(found.snapshots[settings.steps - 1])
    plain = without.snapshots[settings.steps - 1]
    torch.testing.assert_close(ways[0], plain)
    assert (ways[1] - plain).abs().max() > 1e-3


def test_axes_that_cannot_be_used_are_named(pipeline, other_folder, tmp_path):
    assert load_axes(tmp_path, pipeline) is None
    axes = torch.eye(16)
    save_axes(tmp_path, axes, pipeline)
    assert torch.equal(load_axes(tmp_path, pipeline), axes)
    with pytest.raises(ValueError, match="the axes are for another model: the weights differ"):
        load_axes(tmp_path, PromptInversionPipeline.from_pretrained(other_folder))
    save_axes(tmp_path, torch.eye(15), pipeline)
    with pytest.raises(ValueError, match=r"expected axes of shape \(16, 16\), got \(15, 15\)"):
        load_axes(tmp_path, pipeline)
    write_tensors(tmp_path / FILE, {"other": axes})
    with pytest.raises(ValueError, match=r"not axes; it has \['other'\]"):
        load_axes(tmp_path, pipeline)
