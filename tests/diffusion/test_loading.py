"""How a family is found, and what is said of models whose bound is no likelihood."""

import ast
import logging
from pathlib import Path

import diffusers
import pytest
import torch
from random_pipeline import SIDE, make_pipeline
from safetensors.torch import save_file
from tiny_pipelines import MAKERS, make

import invcap
from invcap.diffusion.distilled import named_distilled
from invcap.diffusion.families import FAMILIES, frozen, load_model

CODE = Path(invcap.__file__).parent
MOST_LINES = 200
# A tensor that diffusers knows a file's model by, and which model that is.
SINGLE_FILES: dict[str, dict[str, tuple[int, ...]]] = {
    "StableDiffusion": {"model.diffusion_model.output_blocks.11.0.skip_connection.weight": (1,)},
    "StableDiffusionXL": {
        "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1,)
    },
    "StableDiffusion3": {
        "model.diffusion_model.pos_embed": (1, 36864, 1),
        "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,),
    },
    "Flux": {"double_blocks.0.img_attn.norm.key_norm.scale": (1,)},
}


@pytest.fixture
def log(caplog) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "invcap")
    return caplog


def test_every_family_is_tried_on_a_tiny_pipeline():
    assert [family.__name__ for family in FAMILIES] == [*MAKERS]


def test_a_family_is_one_short_file_that_only_the_list_names():
    homes = {family.__module__.rpartition(".")[2] for family in FAMILIES}
    assert len(homes) == len(FAMILIES)
    classes = {kind for family in FAMILIES for kind in (family.__name__, *family.pipelines)}
    for home in homes:
        assert len((CODE / "diffusion" / f"{home}.py").read_text().splitlines()) <= MOST_LINES
    for path in CODE.rglob("*.py"):
        if path.parent == CODE / "diffusion" and path.stem in {"families", *homes}:
            continue
        nodes = [*ast.walk(ast.parse(path.read_text()))]
        modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not {f"invcap.diffusion.{home}" for home in homes} & modules, path
        if "diffusion" in path.parts or "prompt_inversion" in path.parts:
            names = {node.id for node in nodes if isinstance(node, ast.Name)}
            assert not classes & names, path


def test_a_pipeline_of_no_family_is_refused_with_those_there_are():
    pipeline = diffusers.DDPMPipeline(None, None)
    with pytest.raises(
        ValueError, match=r"pipeline: expected one of .*, got DDPMPipeline"
    ) as found:
        frozen(pipeline)
    for family in FAMILIES:
        assert family.pipelines[0] in str(found.value)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("stabilityai/sdxl-turbo", "turbo"),
        ("black-forest-labs/FLUX.1-schnell", "schnell"),
        ("models/SDXL-Lightning", "lightning"),
        ("LCM_Dreamshaper_v7", "lcm"),
        ("Z-Image-Turbo.safetensors", "turbo"),
        ("turbo/stable-diffusion-v1-5", None),
        ("stabilityai/stable-diffusion-xl-base-1.0", None),
        ("turbocharged", None),
    ],
)
def test_few_step_models_are_known_by_their_names(name, word):
    assert named_distilled(name) == (word and f"its name says {word}")


@pytest.mark.parametrize("folder", ["tiny-turbo", "tiny"])
def test_a_distilled_model_warns_that_its_bound_is_no_likelihood(folder, tmp_path, log):
    make_pipeline().save_pretrained(tmp_path / folder)
    load_model(tmp_path / folder)
    messages = [record.getMessage() for record in log.records if record.name.startswith("invcap")]
    assert len(messages) == (folder == "tiny-turbo")
    for message in messages:
        assert "tiny-turbo: a distilled model (its name says turbo)" in message
        assert "its bound is not a likelihood of data" in message


def test_a_model_with_guidance_as_an_input_counts_as_distilled(log):
    model = frozen(make("Flux", guidance_embeds=True))
    (record,) = (record for record in log.records if record.name.startswith("invcap"))
    assert "a distilled model (its guidance is an input)" in record.getMessage()
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompt, steps = model.encode_prompts(["a room"]), torch.tensor([20.5])
    found = model.predict_noise(noisy, steps, prompt)
    assert torch.equal(found, model.predict_noise(noisy, steps, prompt))
    model.guidance = 8.0
    assert not torch.allclose(found, model.predict_noise(noisy, steps, prompt))
    size = (SIDE, SIDE)
    one, other = (model.generate(prompt, [0], size, scale, 2)[0] for scale in (1.0, 8.0))
    assert one.tobytes() != other.tobytes()


def test_t5_may_be_left_out_of_stable_diffusion_3(tmp_path):
    make("StableDiffusion3").save_pretrained(tmp_path / "whole")
    make("StableDiffusion3", t5=False).save_pretrained(tmp_path / "without")
    left_out = load_model(tmp_path / "whole", text_encoder_3=None, tokenizer_3=None)
    without = load_model(tmp_path / "without")
    for model in (left_out, without):
        states = model.encode_prompts(["a red square"]).tensors["prompt_embeds"]
        assert states[:, :77].any() and not states[:, 77:].any()
    with_t5 = load_model(tmp_path / "whole").encode_prompts(["a red square"])
    assert with_t5.tensors["prompt_embeds"][:, 77:].any()


@pytest.mark.parametrize("name", [*SINGLE_FILES])
def test_a_single_file_is_loaded_by_the_class_of_its_weights(name, tmp_path, monkeypatch):
    path, calls = tmp_path / "weights.safetensors", []
    save_file({key: torch.zeros(shape) for key, shape in SINGLE_FILES[name].items()}, path)
    (family,) = (family for family in FAMILIES if family.__name__ == name)

    def from_single_file(path, **options):
        calls.append((path, options))
        return make(name)

    kind = getattr(diffusers, family.pipelines[0])
    monkeypatch.setattr(kind, "from_single_file", from_single_file)
    assert type(load_model(path, config="somewhere")) is family
    assert calls == [(str(path), {**family.load_options, "config": "somewhere"})]


def test_a_single_file_gives_the_model_that_its_weights_are_of(tmp_path):
    pipeline = make("ZImage")
    pipeline.save_pretrained(tmp_path / "folder")
    path, weights = tmp_path / "weights.safetensors", pipeline.transformer.state_dict()
    for old, new in (
        ("all_final_layer.2-1.", "final_layer."),
        ("all_x_embedder.2-1.", "x_embedder."),
        (".to_out.0.", ".out."),
        (".norm_k.", ".k_norm."),
        (".norm_q.", ".q_norm."),
    ):
        weights = {name.replace(old, new): weight for name, weight in weights.items()}
    for name in [name for name in weights if name.endswith(".to_q.weight")]:
        parts = [weights.pop(name.replace("to_q", part)) for part in ("to_q", "to_k", "to_v")]
        weights[name.replace("to_q", "qkv")] = torch.cat(parts)
    save_file(weights, path)
    parts = {name: getattr(pipeline, name) for name in ("text_encoder", "tokenizer", "vae")}
    found = load_model(path, config=str(tmp_path / "folder"), **parts)
    assert found.fingerprint == frozen(pipeline).fingerprint


@pytest.mark.parametrize("content", ["another model", "another family", "no weights"])
def test_a_single_file_of_another_model_is_refused(content, tmp_path):
    path = tmp_path / "weights.safetensors"
    message = f"weights.safetensors: expected weights of one of v1, v2, xl_base, .*, got {content}"
    if content == "another model":
        save_file({"weight": torch.zeros(1)}, path)
    elif content == "another family":
        key = "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias"
        save_file({key: torch.zeros(1)}, path)
        message = message.replace(content, "xl_refiner")
    else:
        path.write_text(content)
        message = "weights.safetensors: not a file of weights that loads"
    with pytest.raises(ValueError, match=message):
        load_model(path)


def test_a_single_file_that_lacks_what_the_model_needs_is_refused(tmp_path):
    make("ZImage").save_pretrained(tmp_path / "folder")
    path = tmp_path / "weights.safetensors"
    save_file({"layers.0.adaLN_modulation.0.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"weights\.safetensors: not a ZImagePipeline that loads"):
        load_model(path, config=str(tmp_path / "folder"))
