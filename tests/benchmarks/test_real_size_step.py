import json
from typing import Any

import pytest
import torch
from random_pipeline import make_pipeline
from tiny_pipelines import make

CLIP_L, CLIP_G, VAE = 123_060_480, 694_659_840, 83_653_863
PARAMETERS = {
    "sd14": {"vae": VAE, "text_encoder": CLIP_L, "unet": 859_520_964},
    "sdxl": {
        "vae": VAE,
        "text_encoder": CLIP_L,
        "text_encoder_2": CLIP_G,
        "unet": 2_567_463_684,
    },
    "sd3": {
        "vae": 83_819_683,
        "text_encoder": CLIP_L + 768 * 768,
        "text_encoder_2": CLIP_G,
        "transformer": 2_028_328_000,
    },
}
TINY: dict[str, Any] = {
    "sd14": make_pipeline,
    "sdxl": lambda: make("StableDiffusionXL"),
    "sd3": lambda: make("StableDiffusion3", t5=False),
}


@pytest.mark.parametrize("name", [*PARAMETERS])
def test_the_networks_have_the_size_of_the_public_models(script, name):
    with torch.device("meta"):
        pipeline = script("real_size_step").build(name, torch.bfloat16)
    parts = pipeline.components
    sizes = {
        part: sum(weight.numel() for weight in parts[part].parameters())
        for part in PARAMETERS[name]
    }
    assert sizes == PARAMETERS[name]
    assert {weight.dtype for part in PARAMETERS[name] for weight in parts[part].parameters()} == {
        torch.bfloat16
    }
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", [*PARAMETERS])
def test_a_score_and_a_step_are_measured(script, name, monkeypatch, capsys):
    step = script("real_size_step")
    monkeypatch.setitem(step.MODELS, name, TINY[name])
    monkeypatch.setattr(step, "SIZE", (16, 16))
    step.main(name, "bfloat16", "float32", gradient_checkpointing=True)
    found = json.loads(capsys.readouterr().out)
    assert found["score_seconds"] > 0 and found["gradient_seconds"] > 0
    assert found["built_peak_gib"] <= found["score_peak_gib"] <= found["gradient_peak_gib"]
    weights = sum(found["parameters"].values()) * 2 / 2**30
    assert found["weights_gib"] == pytest.approx(weights)
    above = found["score_peak_gib"] - found["weights_gib"]
    assert found["score_above_weights_gib"] == pytest.approx(above, abs=1e-3)
