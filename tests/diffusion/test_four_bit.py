"""Weights of four bits, where neither bitsandbytes nor a GPU is there."""

import importlib.metadata
from importlib.util import find_spec

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import MAKERS, make

from invcap.diffusion import four_bit
from invcap.diffusion.families import load_model

LARGE = {
    "StableDiffusion": ["unet"],
    "StableDiffusionXL": ["unet"],
    "StableDiffusion3": ["text_encoder_3", "transformer"],
    "Flux": ["text_encoder_2", "transformer"],
    "ZImage": ["text_encoder", "transformer"],
}


@pytest.fixture
def equipped(monkeypatch):
    """A machine that seems to have bitsandbytes and a GPU."""
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "0.48.0" if name == "bitsandbytes" else version(name),
    )
    monkeypatch.setattr(
        four_bit, "find_spec", lambda name: True if name == "bitsandbytes" else find_spec(name)
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize("name", [*MAKERS])
def test_diffusers_is_told_to_load_the_large_networks_in_four_bits(
    name, tmp_path, equipped, monkeypatch
):
    pipeline = make(name)
    pipeline.save_pretrained(tmp_path)
    calls = []

    def load(path, **options):
        calls.append(options)
        return pipeline

    monkeypatch.setattr(type(pipeline), "from_pretrained", load)
    load_model(tmp_path, dtype=torch.bfloat16, four_bit=True)
    ((config, dtype),) = ((call["quantization_config"], call["dtype"]) for call in calls)
    assert sorted(config.components_to_quantize) == LARGE[name] and dtype == torch.bfloat16
    for large in LARGE[name]:
        found = config._resolve_quant_config("text" not in large, large)
        assert found.load_in_4bit and found.bnb_4bit_quant_type == "nf4"
        assert found.bnb_4bit_compute_dtype == torch.bfloat16


def test_nothing_is_loaded_without_bitsandbytes_or_a_gpu(tmp_path, equipped, monkeypatch):
    make("StableDiffusion").save_pretrained(tmp_path / "model")
    (tmp_path / "file.safetensors").write_bytes(b"")
    for cls in (DiffusionPipeline, *DiffusionPipeline.__subclasses__()):
        monkeypatch.setattr(cls, "from_pretrained", None)
    with pytest.raises(ValueError, match=r"four_bit needs a folder or a name on the hub, got"):
        load_model(tmp_path / "file.safetensors", four_bit=True)
    with pytest.raises(ValueError, match="compute_dtype cannot be used with four_bit, got"):
        load_model(tmp_path / "model", four_bit=True, compute_dtype=torch.float32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="four_bit needs a CUDA device, and this machine has none"):
        load_model(tmp_path / "model", four_bit=True)
    monkeypatch.setattr(four_bit, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="four_bit needs the package bitsandbytes: pip install"):
        load_model(tmp_path / "model", four_bit=True)
