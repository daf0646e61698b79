import json

import pytest
import torch
from PIL import Image

from invcap import PromptInversionPipeline, hashing
from invcap.diffusion import model as model_file
from invcap.prompt_inversion import InversionSettings, axes, embeddings
from invcap.prompt_inversion.axes import save_axes
from invcap.prompt_inversion.embeddings import save_conditioning


def test_a_folder_that_is_not_a_pipeline_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a diffusers pipeline, but has no model_index"):
        PromptInversionPipeline.from_pretrained(tmp_path)


def test_a_folder_with_another_kind_of_pipeline_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    known = "StableDiffusionPipeline, .*StableDiffusion3Pipeline, FluxPipeline"
    with pytest.raises(ValueError, match=rf"expected one of {known}.*, got DDPMPipeline"):
        PromptInversionPipeline.from_pretrained(tmp_path)


def test_a_name_that_is_nothing_is_refused(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
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


def test_a_broken_picture_is_named(pipeline, pictures, tmp_path):
    pictures[0].save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-30])
    for use in (
        lambda path: pipeline.log_likelihood(path, ["a room"]),
        lambda path: pipeline.invert([tmp_path / "whole.png", path]),
    ):
        with pytest.raises(OSError, match=r"half\.png: .*truncated"):
            use(tmp_path / "half.png")


def test_a_frozen_model_knows_its_weights_and_reads_them_once(own_pipeline, monkeypatch):
    counted = []
    for name in ("fingerprint", "signature"):
        function = getattr(hashing, name)

        def count(module, function=function, name=name):
            counted.append(name)
            return function(module)

        monkeypatch.setattr(model_file, name, count)
    model = own_pipeline.model
    first = model.fingerprint
    assert [model.fingerprint, model.signature] == [first, model.signature]
    assert counted == ["fingerprint", "signature"]
    assert model.to(torch.bfloat16).fingerprint != first


def test_learned_starts_are_read_once(pipeline, tmp_path, monkeypatch):
    folder, reads = tmp_path / "starts", []
    meta = pipeline.model.encode_prompts(["a red square"])
    save_conditioning(folder / "meta.safetensors", meta, pipeline.model)
    save_axes(folder, torch.eye(16), pipeline.model)
    for module in (embeddings, axes):
        read = module.read_tensors
        monkeypatch.setattr(
            module, "read_tensors", lambda path, read=read: reads.append(path.name) or read(path)
        )
    settings = InversionSettings(steps=1, held_out=4)
    image = Image.new("RGB", (16, 16))
    for seed in range(3):
        pipeline.invert(image, "meta", settings, seeds=seed, starts=folder, num_inference_steps=1)
    assert sorted(reads) == ["axes.safetensors", "meta.safetensors"]


def test_a_folder_of_starts_that_is_not_there_is_an_error_whatever_the_start(pipeline, tmp_path):
    for start in ("a room", "meta"):
        with pytest.raises(ValueError, match=r"starts: expected a folder of .*nowhere"):
            pipeline.invert(Image.new("RGB", (16, 16)), start, starts=tmp_path / "nowhere")
