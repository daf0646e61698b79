import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from kills import KilledError, kill_at
from safetensors.torch import load_file
from typer.testing import CliRunner

from invcap.cli import app
from invcap.prompt_inversion import InversionSettings
from invcap.prompt_inversion.joint import Negative, Together
from invcap.prompt_inversion.objective import Objective
from invcap.prompt_inversion.parametrization import parametrize

SETTINGS = InversionSettings(
    steps=8, draws=4, bank=32, held_out=16, evaluate_every=4, snapshots=0, checkpoint_every=4
)


def objective_of(pipeline, pictures) -> tuple[Objective, torch.Tensor]:
    model, count = pipeline.model, len(pictures)
    vectors, conditioning_of = parametrize(model, ["a room"] * count, "hidden_states")
    latents = model.encode_images(pictures)
    return Objective(model, latents, conditioning_of, range(count), SETTINGS), vectors


def test_together_takes_the_mean_over_images_and_negative_changes_the_sign(pipeline, pictures):
    objective, vectors = objective_of(pipeline, pictures)
    every, one = torch.arange(len(pictures)), torch.arange(1)
    gradients, bounds = objective.gradient(vectors, every, 3)
    terms = objective.held_out_terms(vectors, every)
    together = Together(objective)
    for climbed, sign in ((together, 1), (Negative(together), -1)):
        gradient, bound = climbed.gradient(vectors[:1], one, 3)
        torch.testing.assert_close(gradient, sign * gradients.mean(0, keepdim=True))
        torch.testing.assert_close(bound, sign * bounds.mean(0, keepdim=True))
        found = climbed.held_out_terms(vectors[:1], one)
        torch.testing.assert_close(found, sign * terms.mean(0, keepdim=True))


def test_one_prompt_is_found_for_all_images(pipeline, pictures):
    found = pipeline.invert(pictures, settings=SETTINGS, together=True, num_inference_steps=1)
    (history,) = found.histories
    assert max(history.held_out) > history.held_out[0]
    assert found.prompt_embeds.shape == (1, 77, 16) and len(found.images) == 1
    evaluations = 8 * SETTINGS.draws + len(history.held_out) * SETTINGS.held_out
    assert found.unet_evaluations == [len(pictures) * evaluations]
    objective, _ = objective_of(pipeline, pictures)
    every = torch.arange(len(pictures))
    terms = objective.held_out_terms(found.prompt_embeds.expand(len(pictures), -1, -1), every)
    assert found.log_likelihood.item() == pytest.approx(terms.mean().item())


def test_a_negative_prompt_lowers_the_bound(pipeline, pictures):
    found = pipeline.invert(pictures[:2], settings=SETTINGS, negative=True, num_inference_steps=1)
    for history, bound in zip(found.histories, found.log_likelihood.tolist(), strict=True):
        assert min(history.held_out) < history.held_out[0]
        assert bound == min(history.held_out)
        assert history.training[-1] < history.training[0]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"together": True}, {"negative": True}])
def test_a_killed_inversion_resumes_to_the_same_prompt(options, pipeline, pictures, tmp_path):
    options = {"settings": SETTINGS, "num_inference_steps": 1} | options
    whole = pipeline.invert(pictures, **options)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KilledError):
        pipeline.invert(pictures, **options, checkpoint=path, callback_on_step_end=kill_at(6))
    found = pipeline.invert(pictures, **options, checkpoint=path)
    assert torch.equal(found.prompt_embeds, whole.prompt_embeds)
    assert found.histories == whole.histories
    with pytest.raises(ValueError, match=r"cannot resume: (together|negative) differs"):
        pipeline.invert(pictures, settings=SETTINGS, checkpoint=path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": ["a room"] * 3, "together": True}, "start must be one sentence or embedding"),
        ({"start": torch.ones(3, 77, 16), "together": True}, "start must be one sentence"),
        ({"start": "amortised", "together": True}, "start must be one sentence or embedding"),
        ({"words": True, "together": True}, "words are found for each image .* got together too"),
        ({"words": True, "negative": True}, "words are found for each image .* got negative too"),
    ],
)
def test_options_that_together_excludes_are_refused(options, message, pipeline, pictures):
    with pytest.raises(ValueError, match=message):
        pipeline.invert(pictures, **options)


@pytest.mark.slow
def test_commands_write_one_folder_for_all_and_negative_names(folder, pictures, tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for file, picture in zip(files, pictures, strict=False):
        picture.save(file)
    output = tmp_path / "found"
    arguments = ["invert", *files, "--output", output, "--model", folder, "--steps", 5]
    arguments += ["--together", "--negative", "--json"]
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["pictures"] == [str(file) for file in files]
    path = output / "together" / "embedding.safetensors"
    assert row["embedding"] == str(path) and (path.parent / "strip.png").is_file()
    plain = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    options = {"num_inference_steps": 1, "guidance_scale": 5.0, "prompt": "a room"}
    plain(**options, **load_file(path))
    again = CliRunner().invoke(app, [*map(str, arguments), "--resume"])
    assert json.loads(again.stdout) == [row]
