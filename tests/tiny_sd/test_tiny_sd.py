from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn
from torch.nn import functional as F

from invcap.data.shapes import Scene, draw, scenes
from invcap.tiny_sd.captions import draw_caption
from invcap.tiny_sd.evaluate import accuracies, draw_scenes
from invcap.tiny_sd.networks import assemble
from invcap.tiny_sd.tokenizer import train_tokenizer
from invcap.tiny_sd.train import (
    draw_steps,
    token_ids,
    train_denoiser,
    train_text_encoder,
    train_vae,
)
from invcap.training.trainer import FitSettings, fit

SOME = list(scenes())[::2970]
SETTINGS = FitSettings(steps=12, warmup=2, checkpoint_seconds=1e9)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.stack([np.asarray(draw(scene)) for scene in SOME])


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(scene.caption(i) for scene in SOME for i in range(5))


def test_known_words_are_one_token_and_any_text_comes_back(tokenizer):
    assert len(tokenizer.tokenize(SOME[0].caption())) == len(SOME[0].caption().split()) + 1
    for text in ("a room", "zebras, 27 of them", "naïve café 日本 😀"):
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids[1:-1]
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.model_max_length == 77


def test_captions_say_all_a_part_or_nothing():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_caption(SOME[0], generator) for _ in range(400)]
    whole = {SOME[0].caption(i) for i in range(5)}
    assert whole <= set(drawn) and "" in drawn
    assert 0.5 < np.mean([caption in whole for caption in drawn]) < 0.8


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(4, 6), nn.Linear(6, 3))


def loss_at(module: nn.Module, generator: torch.Generator) -> torch.Tensor:
    chosen = torch.randint(4, (8,), generator=generator)
    return F.mse_loss(module(chosen), torch.eye(4)[chosen, :3])


def test_fitting_goes_on_where_it_was_killed(tmp_path):
    def killed(step: int, loss: float) -> None:
        if step == 7:
            raise KeyboardInterrupt

    settings = replace(SETTINGS, checkpoint_seconds=0.0)
    whole = fit(linear(), loss_at, SETTINGS, tmp_path / "whole", {})
    with pytest.raises(KeyboardInterrupt):
        fit(linear(), loss_at, settings, tmp_path / "killed", {}, killed)
    steps = []
    resumed = fit(
        linear(), loss_at, settings, tmp_path / "killed", {}, lambda step, loss: steps.append(step)
    )
    assert steps == list(range(7, 13))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_fitting_lowers_the_loss_and_refuses_another_runs_checkpoint(tmp_path):
    losses = []
    settings = replace(SETTINGS, steps=100)
    fit(
        linear(),
        loss_at,
        settings,
        tmp_path / "a",
        {"data": "a"},
        lambda _, loss: losses.append(loss),
    )
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    with pytest.raises(ValueError, match="cannot go on with another data"):
        fit(linear(), loss_at, settings, tmp_path / "a", {"data": "b"})


def test_a_loss_that_is_not_finite_stops(tmp_path):
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1"):
        fit(linear(), lambda m, g: m[1].bias.sum() * torch.nan, SETTINGS, tmp_path / "a", {})


def test_steps_cover_all_noise_levels_the_late_ones_more(tmp_path):
    steps = draw_steps(1000, torch.Generator().manual_seed(0))
    assert 0 <= steps.min() < 10 and 990 < steps.max() <= 999
    assert 0.55 < (steps >= 500).float().mean() < 0.7


def test_the_text_encoder_learns_what_captions_name(tokenizer, tmp_path):
    losses = []
    settings = replace(SETTINGS, steps=40)
    text_encoder = train_text_encoder(
        SOME, tokenizer, settings, tmp_path / "text", "shapes", lambda _, loss: losses.append(loss)
    )
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    hidden = text_encoder(token_ids(tokenizer, [SOME[0].caption()]))[0]
    assert hidden.shape == (1, 77, 64)


def test_all_stages_train_and_make_a_pipeline_that_diffusers_loads(pixels, tokenizer, tmp_path):
    losses: dict[str, list[float]] = {"vae": [], "denoiser": []}
    text_encoder = train_text_encoder(
        SOME,
        tokenizer,
        replace(SETTINGS, steps=1),
        tmp_path / "text",
        "shapes",
        lambda step, loss: None,
    )
    vae, latents = train_vae(
        pixels,
        replace(SETTINGS, steps=6),
        tmp_path / "vae",
        "shapes",
        lambda _, loss: losses["vae"].append(loss),
    )
    assert latents.shape == (len(SOME), 6, 8, 8)
    assert latents.std().item() == pytest.approx(1, rel=1e-3)
    denoiser = train_denoiser(
        latents,
        SOME,
        tokenizer,
        text_encoder,
        replace(SETTINGS, steps=4),
        tmp_path / "denoiser",
        "shapes",
        lambda _, loss: losses["denoiser"].append(loss),
    )
    assert all(values[-1] < values[0] for values in losses.values())
    assemble(vae, tokenizer, denoiser.text_encoder, denoiser.unet).save_pretrained(tmp_path / "sd")
    size = sum(path.stat().st_size for path in (tmp_path / "sd").rglob("*"))
    assert size < 25e6 and not list((tmp_path / "sd").rglob("*.bin"))
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "sd")
    loaded.set_progress_bar_config(disable=True)
    drawn = draw_scenes(loaded, SOME[:2], guidance_scale=2.0, steps=2, seed=0)
    assert drawn.shape == (2, 32, 32, 3)


def test_rendered_pictures_are_judged_right_and_changed_ones_by_what_changed(pixels):
    assert accuracies(pixels, SOME, pixels, SOME) == dict.fromkeys(asdict(SOME[0]), 1.0)
    square = Scene("large", "red", "square", "in the center", "black")
    ring = replace(square, shape="ring")
    pictures = np.stack([np.asarray(draw(scene)) for scene in (square, ring)])
    found = accuracies(pictures, [square, square], pictures, [square, ring])
    assert found == {"size": 1, "colour": 1, "shape": 0.5, "place": 1, "background": 1}
