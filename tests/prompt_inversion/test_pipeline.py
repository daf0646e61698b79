import json

import pytest
from PIL import Image

from invcap import PromptInversionPipeline


def test_a_folder_that_is_not_a_pipeline_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a diffusers pipeline, but has no model_index"):
        PromptInversionPipeline.from_pretrained(tmp_path)


def test_a_folder_with_another_kind_of_pipeline_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    with pytest.raises(
        ValueError, match="expected one of StableDiffusionPipeline, got DDPMPipeline"
    ):
        PromptInversionPipeline.from_pretrained(tmp_path)


def test_a_name_that_is_nothing_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="no-such/model: not a diffusers pipeline that loads"):
        PromptInversionPipeline.from_pretrained("no-such/model")


def test_networks_are_frozen_and_the_size_is_the_models_own(pipeline):
    assert pipeline.size == (16, 16)
    networks = pipeline.text_to_image
    for network in (networks.vae, networks.text_encoder, networks.unet):
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], r"prompts must be a list of at least one sentence, got \[\]"),
        ("a room", "prompts must be a list of at least one sentence, got 'a room'"),
        (["a room", " "], "a prompt must have words, got ' '"),
        (["red " * 100], "a prompt has at most 77 tokens with start and end, got"),
    ],
)
def test_bad_prompts_are_named(pipeline, pictures, prompts, message):
    with pytest.raises(ValueError, match=message):
        pipeline.log_likelihood(pictures[0], prompts)


def test_bad_pictures_are_named(pipeline, tmp_path):
    (tmp_path / "picture.png").write_text("not a picture")
    with pytest.raises(OSError, match=r"picture\.png"):
        pipeline.model.encode_images(tmp_path / "picture.png")
    with pytest.raises(OSError, match=r"no-such\.png"):
        pipeline.model.encode_images(tmp_path / "no-such.png")
    with pytest.raises(ValueError, match="images must hold at least one image, got none"):
        pipeline.model.encode_images([])


def test_pictures_may_be_files_of_any_size(pipeline, tmp_path):
    Image.new("RGBA", (50, 31), "red").save(tmp_path / "red.png")
    assert pipeline.model.encode_images([tmp_path / "red.png"] * 2).shape == (2, 4, 8, 8)
