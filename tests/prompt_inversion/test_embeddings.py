import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.prompt_inversion.embeddings import (
    load_prompt_embeds,
    save_prompt_embeds,
    save_token_vectors,
)

SHAPE = (77, 16)


@pytest.fixture
def saved(pipeline, tmp_path):
    path = tmp_path / "embedding.safetensors"
    embeds = pipeline.model.encode_prompts(["a red square"]).tensors["prompt_embeds"][0]
    save_prompt_embeds(path, embeds, pipeline)
    return path, embeds


def test_an_embedding_comes_back(pipeline, saved):
    path, embeds = saved
    assert torch.equal(load_prompt_embeds(path, pipeline)[0], embeds)


def test_plain_diffusers_draws_the_same_from_the_file(pipeline, folder, saved):
    path, embeds = saved
    plain = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    drawn = plain(
        prompt_embeds=load_file(path)["prompt_embeds"],
        num_inference_steps=3,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(5),
    ).images[0]
    ours = pipeline.generate(embeds[None], [5], num_inference_steps=3)[0]
    assert drawn.tobytes() == ours.tobytes()


def test_diffusers_loads_token_vectors_as_a_textual_inversion(pipeline, folder, pictures, tmp_path):
    settings = InversionSettings(steps=2, draws=2, bank=4, held_out=4, evaluate_every=1)
    found = pipeline.invert(
        pictures[0], "a red square", settings, "token_vectors", num_inference_steps=1
    )
    path = tmp_path / "tokens.safetensors"
    save_token_vectors(path, found.token_vectors[0], "<picture>")
    plain = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    plain.load_textual_inversion(path)
    hidden, _ = plain.encode_prompt("<picture>", "cpu", 1, False)
    assert found.token_vectors.shape[1] > 1
    torch.testing.assert_close(hidden, found.prompt_embeds)


def test_diffusers_loads_string_to_param(pipeline, folder, tmp_path):
    vectors = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    save_token_vectors(tmp_path / "tokens.pt", vectors, "<picture>")
    plain = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    plain.load_textual_inversion(tmp_path, weight_name="tokens.pt")
    hidden, _ = plain.encode_prompt("<picture>", "cpu", 1, False)
    expected = pipeline.model.encode_tokens(vectors[None]).tensors["prompt_embeds"]
    torch.testing.assert_close(hidden, expected)


def test_files_of_several_text_encoders_have_a_tensor_for_each(tmp_path):
    parts, vectors = {"clip_l": 3, "clip_g": 5}, torch.arange(16.0).view(2, 8)
    save_token_vectors(tmp_path / "tokens.safetensors", vectors, "<picture>", parts)
    found = load_file(tmp_path / "tokens.safetensors")
    assert torch.equal(found["clip_l"], vectors[:, :3])
    assert torch.equal(found["clip_g"], vectors[:, 3:])
    with pytest.raises(ValueError, match=r"tokens\.pt: expected \.safetensors .* clip_l, clip_g"):
        save_token_vectors(tmp_path / "tokens.pt", vectors, "<picture>", parts)


def test_an_embedding_for_another_model_is_refused(saved, other_folder):
    other = PromptInversionPipeline.from_pretrained(other_folder)
    with pytest.raises(ValueError, match=r"embedding\.safetensors: .* for another model"):
        load_prompt_embeds(saved[0], other)


def test_an_embedding_of_another_shape_is_refused(pipeline, saved):
    save_prompt_embeds(saved[0], torch.ones(77, 32), pipeline)
    message = r"expected an embedding of shape \(1, 77, 16\), got \(1, 77, 32\)"
    with pytest.raises(ValueError, match=message):
        load_prompt_embeds(saved[0], pipeline)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_still_the_same_model(folder, saved, dtype):
    half = PromptInversionPipeline.from_pretrained(folder, dtype=dtype)
    assert load_prompt_embeds(saved[0], half).shape == (1, *SHAPE)


def test_a_slightly_trained_model_is_another_model(own_pipeline, saved):
    own_pipeline.text_to_image.unet.down_blocks[0].resnets[0].conv1.weight.mul_(1.01)
    with pytest.raises(ValueError, match="for another model"):
        load_prompt_embeds(saved[0], own_pipeline)


@pytest.mark.parametrize("content", ["nothing", "text", "tensors"])
def test_a_file_that_is_no_embedding_is_refused(pipeline, tmp_path, content):
    path = tmp_path / "embedding.safetensors"
    if content == "text":
        path.write_text("a red square")
    elif content == "tensors":
        save_file({"weights": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"embedding\.safetensors: (no such|not a)"):
        load_prompt_embeds(path, pipeline)
