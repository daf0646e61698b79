"""Prompts of Stable Diffusion 3, with T5 and without it."""

import literal_bounds as literal
import pytest
import torch
from PIL import Image
from random_pipeline import SIDE
from tiny_pipelines import make

from invcap.diffusion.families import frozen
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline

SHORT = "a red square"
LONG = "red " * 200  # 202 tokens of CLIP, 201 of T5


@pytest.mark.parametrize(("t5", "prompt"), [(True, SHORT), (False, SHORT), (True, LONG)])
def test_the_conditioning_is_that_of_the_paper(t5, prompt):
    model = frozen(make("StableDiffusion3", t5=t5))
    found = model.encode_prompts([prompt]).tensors
    expected = literal.sd3_prompt(model.pipeline, prompt)
    assert {name: tensor[0].shape for name, tensor in found.items()} == model.conditioning_shapes
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)
    assert found["prompt_embeds"][:, 77:].any() == t5


def test_t5_tells_long_prompts_apart_that_are_one_to_clip():
    model = frozen(make("StableDiffusion3"))
    one, other = model.encode_prompts([LONG, LONG + "square"]).tensors["prompt_embeds"]
    assert torch.equal(one[:77], other[:77]) and not torch.allclose(one[77:], other[77:])
    pipeline = PromptInversionPipeline(model)
    image, size = Image.new("RGB", (SIDE, SIDE), "red"), (SIDE, SIDE)
    found = pipeline.log_likelihood(image, [LONG, LONG + "square"], 4, size=size)
    assert found.bound[0] != found.bound[1]


def test_prompts_longer_than_their_encoders_read_are_refused():
    model = frozen(make("StableDiffusion3"))
    with pytest.raises(ValueError, match="a prompt has at most 256 tokens with start and end, got"):
        model.check_prompt("red " * 300)
    with pytest.raises(ValueError, match="a prompt must have words"):
        model.check_prompt(" ")
    clips = frozen(make("StableDiffusion3", t5=False))
    with pytest.raises(ValueError, match="a prompt has at most 77 tokens with start and end, got"):
        clips.check_prompt(LONG)
    assert clips.can_read(SHORT) and model.can_read(LONG)


@pytest.mark.parametrize("over", ["token_vectors", "tokens"])
def test_token_vectors_are_clips_so_their_start_has_at_most_77(over):
    pipeline = PromptInversionPipeline(frozen(make("StableDiffusion3")))
    with pytest.raises(ValueError, match="a prompt has at most 77 tokens with start and end, got"):
        pipeline.invert("no such image.png", LONG, over=over, size=(SIDE, SIDE))


@pytest.mark.parametrize("over", ["hidden_states", "conditioning"])
def test_inversions_leave_the_zeros_of_an_absent_t5_as_they_are(over):
    pipeline = PromptInversionPipeline(frozen(make("StableDiffusion3", t5=False)))
    settings = InversionSettings(steps=2, draws=2, bank=2, held_out=2, snapshots=0)
    image = Image.new("RGB", (SIDE, SIDE), "red")
    found = pipeline.invert(image, SHORT, settings, over, size=(SIDE, SIDE), num_inference_steps=1)
    begun = pipeline.model.encode_prompts([SHORT]).tensors["prompt_embeds"]
    assert found.prompt_embeds.shape == begun.shape and not found.prompt_embeds[:, 77:].any()
    assert not torch.equal(found.prompt_embeds, begun)
