import json

import torch
from random_pipeline import make_pipeline

PARAMETERS = {"vae": 83_653_863, "text_encoder": 123_060_480, "unet": 859_520_964}


def test_the_networks_have_the_size_of_stable_diffusion_1_4(script):
    with torch.device("meta"):
        networks = script("sd14_step").networks()
    sizes = {
        name: sum(w.numel() for w in network.parameters()) for name, network in networks.items()
    }
    assert sizes == PARAMETERS


def test_a_step_is_measured(script, monkeypatch, capsys):
    sd14_step = script("sd14_step")
    small = make_pipeline().components
    monkeypatch.setattr(sd14_step, "networks", lambda: {name: small[name] for name in PARAMETERS})
    monkeypatch.setattr(sd14_step, "train_tokenizer", lambda texts: small["tokenizer"])
    monkeypatch.setattr(sd14_step, "SIZE", (16, 16))
    sd14_step.main(gradient_checkpointing=True, attention_slicing=True)
    found = json.loads(capsys.readouterr().out)
    assert found["seconds_a_step"] > 0 and len(found["bounds"]) == 2
