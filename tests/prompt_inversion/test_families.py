"""What is done with a model asks only what `FrozenTextToImage` has."""

import ast
from pathlib import Path

import pytest
import torch
from PIL import Image
from two_tensors import TOKENS, WIDTH, TwoTensorPipeline, TwoTensors

import invcap.prompt_inversion
from invcap.diffusion.conditioning import Conditioning
from invcap.files import read_tensors
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.prompt_inversion.embeddings import load_conditioning, save_conditioning
from invcap.prompt_inversion.objective import Objective
from invcap.prompt_inversion.parametrization import parametrize
from invcap.prompt_inversion.report import write_inversion

SETTINGS = InversionSettings(steps=20, draws=4, bank=16, held_out=8, evaluate_every=5, snapshots=2)
STILL = InversionSettings(steps=0, held_out=8)
NAMES = ("prompt_embeds", "pooled_prompt_embeds")
OF_ONE_FAMILY = {"unet", "vae", "text_encoder", "tokenizer", "transformer"}


@pytest.fixture
def pipeline() -> PromptInversionPipeline:
    pipeline = PromptInversionPipeline(TwoTensors(TwoTensorPipeline()))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def images() -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]


def test_algorithms_name_nothing_that_one_family_has():
    for path in Path(invcap.prompt_inversion.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            assert not isinstance(node, ast.Attribute) or node.attr not in OF_ONE_FAMILY, path
            assert not any("StableDiffusion" in name or "CLIP" in name for name in names), path


def test_an_inversion_optimizes_one_tensor_and_keeps_the_other(pipeline, images):
    found = pipeline.invert(images, "red", SETTINGS)
    for history in found.histories:
        assert max(history.held_out) > history.held_out[0]
    begun = pipeline.model.encode_prompts(["red"] * 2).tensors
    assert torch.equal(found.prompt_embeds, found.conditioning["prompt_embeds"])
    assert not torch.allclose(found.prompt_embeds, begun["prompt_embeds"])
    assert torch.equal(found.conditioning["pooled_prompt_embeds"], begun["pooled_prompt_embeds"])
    assert all(tuple(states.tensors) == NAMES for states in found.snapshots.values())


def test_gradients_by_token_vectors_pass_through_both_tensors(pipeline, images):
    model = pipeline.model
    vectors, conditioning_of = parametrize(model, ["red", "sky"], "token_vectors")
    latents = model.encode_images(images)
    objective = Objective(model, latents, conditioning_of, [0, 1], SETTINGS)
    rows = torch.arange(2)
    noisy, samples, owner = objective.draw(rows, 0)

    def errors(vectors: torch.Tensor) -> torch.Tensor:
        conditioning = conditioning_of(vectors, rows)[owner]
        predicted = model.predict_noise(noisy, samples.steps, conditioning)
        return (predicted - samples.noise).square().sum() / SETTINGS.draws

    expected = torch.autograd.functional.jacobian(errors, vectors)
    gradient, _ = objective.gradient(vectors, rows, 0)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)

    def without_pooled(vectors: torch.Tensor, rows: torch.Tensor) -> Conditioning:
        tensors = conditioning_of(vectors, rows).tensors
        return Conditioning({**tensors, NAMES[1]: tensors[NAMES[1]].detach()})

    objective.conditioning_of = without_pooled
    partial, _ = objective.gradient(vectors, rows, 0)
    assert not torch.allclose(gradient, partial, rtol=1e-2)


def test_both_tensors_are_in_the_embeddings_file_and_reach_what_draws(pipeline, images, tmp_path):
    model = pipeline.model
    found = pipeline.invert(images, "red", SETTINGS, "token_vectors")
    path = write_inversion(tmp_path / "second", model, images[1:], found, 1, seed=0)
    tensors, _ = read_tensors(path)
    for name in NAMES:
        assert torch.equal(tensors[name], found.conditioning[name][1:])
    second = load_conditioning(path, model)
    (drawn,) = model.generate(second, [0])
    assert drawn.tobytes() == found.images[1].tobytes() != found.images[0].tobytes()
    again = pipeline.invert(images[1:], second, STILL)
    for name in NAMES:
        assert torch.equal(again.conditioning[name], second.tensors[name])


def test_learned_starts_are_of_both_tensors(pipeline, images, tmp_path):
    begun = pipeline.model.encode_prompts(["blue"])
    save_conditioning(tmp_path / "meta.safetensors", begun, pipeline.model)
    found = pipeline.invert(images, "meta", STILL, starts=tmp_path)
    for name in NAMES:
        for row in found.conditioning[name]:
            assert torch.equal(row, begun.tensors[name][0])


def test_hidden_states_alone_come_with_a_neutral_second_tensor(pipeline, images, monkeypatch):
    monkeypatch.setattr("invcap.diffusion.model.NEUTRAL", "sky")
    given = torch.randn(TOKENS, WIDTH)
    found = pipeline.invert(images, given, STILL).conditioning
    assert torch.equal(found["prompt_embeds"], given.expand(2, -1, -1))
    neutral = pipeline.model.encode_prompts(["sky"]).tensors["pooled_prompt_embeds"]
    assert torch.equal(found["pooled_prompt_embeds"], neutral.expand(2, -1))
    with pytest.raises(ValueError, match=r"must have pooled_prompt_embeds of shape .*got None"):
        pipeline.invert(images, Conditioning({"prompt_embeds": given[None]}), STILL)


def test_words_are_ranked_with_both_tensors(pipeline, images):
    found = pipeline.invert(images, "red", SETTINGS, "tokens", words=True)
    assert all(len(prompt) == 3 for prompt in found.prompts)
    expected = [
        pipeline.log_likelihood(image, [prompt], 512).bound.item()
        for image, prompt in zip(images, found.prompts, strict=True)
    ]
    errors = 5 * found.prompt_standard_error
    assert ((found.prompt_log_likelihood - torch.tensor(expected)).abs() < errors).all()
