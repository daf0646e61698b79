import pytest
import torch

from invcap.diffusion.conditioning import Conditioning
from invcap.files import write_tensors
from invcap.prompt_inversion import PromptInversionPipeline, few_steps
from invcap.prompt_inversion.axes import DRAWS, FILE, learn_axes, load_axes, save_axes
from invcap.prompt_inversion.objective import Objective
from invcap.prompt_inversion.optimizer import maximize
from invcap.prompt_inversion.parametrization import parametrize
from invcap.prompt_inversion.state import State


def problem(pipeline, count: int) -> tuple[torch.Tensor, Conditioning]:
    latents = 0.1 * torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return latents, pipeline.model.encode_prompts(["a room", "a red square"] * (count // 2))


@pytest.mark.slow
def test_axes_are_principal_axes_of_gradients_of_length_one(pipeline):
    model = pipeline.model
    latents, begun = problem(pipeline, 40)  # more than go at once
    axes = learn_axes(model, latents, begun, seed=3)
    torch.testing.assert_close(axes.T @ axes, torch.eye(16), rtol=0, atol=1e-5)
    settings = few_steps(model.schedule, draws=DRAWS, bank=DRAWS)
    moment = torch.zeros(16, 16)
    for index in range(40):
        one = slice(index, index + 1)
        hidden, conditioning_of = parametrize(model, begun[one], "hidden_states")
        objective = Objective(model, latents[one], conditioning_of, [3 + index], settings)
        gradient = objective.gradient(hidden, torch.tensor([0]), 0)[0][0]
        moment += gradient.T @ gradient / gradient.square().sum()
    assert moment.trace().item() == pytest.approx(40, rel=1e-4)
    variances = axes.T @ moment @ axes
    assert (variances.diagonal().diff() > -1e-4).all()
    torch.testing.assert_close(variances, variances.diagonal().diag(), rtol=0, atol=1e-3)
    # Features as they are would not do.
    assert (moment - moment.diagonal().diag()).abs().max() > 0.1


def test_adams_first_step_is_of_one_size_along_each_axis(pipeline):
    model = pipeline.model
    latents, begun = problem(pipeline, 2)
    hidden, rows = begun.tensors["prompt_embeds"], torch.arange(2)
    axes = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0]
    settings = few_steps(model.schedule, steps=1, held_out=4, learning_rate=0.1)
    vectors, conditioning_of = parametrize(model, begun, "hidden_states", axes)
    back = conditioning_of(vectors, rows).tensors["prompt_embeds"]
    torch.testing.assert_close(back, hidden, rtol=0, atol=1e-5)
    objective = Objective(model, latents, conditioning_of, [0, 1], settings)
    state = maximize(objective, State.start(vectors), settings)
    moved = (conditioning_of(state.vectors, rows).tensors["prompt_embeds"] - hidden) @ axes
    unit = hidden.square().mean((1, 2)).sqrt()[:, None, None]
    relative = (moved / (0.1 * unit)).abs()
    # Where a gradient is 0, as it can be, Adam stays.
    assert ((relative - 1).abs() < 1e-2).float().mean() > 0.95


def test_inversions_go_along_the_axes_in_the_starts_folder(pipeline, pictures, tmp_path):
    settings = few_steps(pipeline.model.schedule, steps=4, held_out=8)
    ways = []
    for axes in (None, torch.eye(16), torch.linalg.qr(torch.randn(16, 16))[0]):
        folder = tmp_path / str(len(ways))
        folder.mkdir()
        if axes is not None:
            save_axes(folder, axes, pipeline.model)
        found = pipeline.invert(
            pictures[:1], "a room", settings, starts=folder, num_inference_steps=1
        )
        ways.append(found.snapshots[settings.steps - 1].tensors["prompt_embeds"])
    plain, *ways = ways
    torch.testing.assert_close(ways[0], plain)
    assert (ways[1] - plain).abs().max() > 1e-3


def test_a_checkpoint_along_other_axes_is_refused(pipeline, pictures, tmp_path):
    settings = few_steps(pipeline.model.schedule, steps=1, held_out=4)
    for folder, axes in (("one", torch.eye(16)), ("other", -torch.eye(16))):
        save_axes(tmp_path / folder, axes, pipeline.model)

    def run(folder: str):
        pipeline.invert(
            pictures[0],
            "a room",
            settings,
            starts=tmp_path / folder,
            checkpoint=tmp_path / "checkpoint.safetensors",
            num_inference_steps=1,
        )

    run("one")
    with pytest.raises(ValueError, match="cannot resume: learned differs"):
        run("other")


def test_axes_that_cannot_be_used_are_named(pipeline, other_folder, tmp_path):
    model = pipeline.model
    assert load_axes(tmp_path, model) is None
    axes = torch.eye(16)
    save_axes(tmp_path, axes, model)
    assert torch.equal(load_axes(tmp_path, model), axes)
    message = r"axes\.safetensors: the axes file is for another model: the weights differ"
    with pytest.raises(ValueError, match=message):
        load_axes(tmp_path, PromptInversionPipeline.from_pretrained(other_folder).model)
    save_axes(tmp_path, torch.eye(15), model)
    with pytest.raises(ValueError, match=r"expected axes of shape \(16, 16\), got \(15, 15\)"):
        load_axes(tmp_path, model)
    write_tensors(tmp_path / FILE, {"other": axes})
    with pytest.raises(ValueError, match=r"not axes; it has \['other'\]"):
        load_axes(tmp_path, model)
