from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from kills import KilledError, kill_at
from safetensors.torch import load_file

from invcap.data.shapes import Scene, draw, scenes
from invcap.tiny_sd.captions import draw_caption
from invcap.tiny_sd.evaluate import accuracies, draw_scenes
from invcap.tiny_sd.networks import assemble, new_text_encoder
from invcap.tiny_sd.tokenizer import train_tokenizer
from invcap.tiny_sd.train import (
    Reader,
    Stage,
    draw_named,
    draw_steps,
    reader_loss,
    token_ids,
    train_denoiser,
    train_text_encoder,
    train_vae,
)

SOME = list(scenes())[::2970]


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


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


def test_steps_cover_all_noise_levels_the_late_ones_more():
    steps = draw_steps(1000, torch.Generator().manual_seed(0))
    assert 0 <= steps.min() < 10 and 990 < steps.max() <= 999
    assert 0.55 < (steps >= 500).float().mean() < 0.7


def test_captions_count_for_the_factors_that_they_name_and_all_factors_alike(tokenizer):
    batch = draw_named(SOME, tokenizer, torch.Generator().manual_seed(1), slice(None))
    assert batch["ids"].shape == (64, 77) and batch["values"].shape == (64, 5)
    torch.testing.assert_close(batch["weights"].mean(0), torch.ones(5))
    unnamed = (batch["weights"] == 0).all(1)
    assert unnamed.any() and set(tokenizer.batch_decode(batch["ids"][unnamed], True)) == {""}


def test_a_factor_that_no_caption_names_costs_nothing(tokenizer, monkeypatch):
    monkeypatch.setattr("invcap.tiny_sd.train.draw_wording", lambda generator: "a {shape}")
    batch = draw_named(SOME, tokenizer, torch.Generator(), slice(None))
    losses = reader_loss(Reader(tokenizer), batch)
    assert {name for name, loss in losses.items() if loss} == {"shape"}


def test_parts_of_a_batch_are_of_one_draw(tokenizer):
    def draw_part(part: slice) -> dict[str, torch.Tensor]:
        return draw_named(SOME, tokenizer, torch.Generator().manual_seed(2), part)

    parts, whole = [draw_part(slice(0, 30)), draw_part(slice(30, 64))], draw_part(slice(None))
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value)


@pytest.mark.slow
def test_the_text_encoder_learns_what_captions_name(tokenizer, accelerator, tmp_path, monkeypatch):
    monkeypatch.setattr("invcap.tiny_sd.train.CAPTIONS", 16)
    stage = Stage(40, tmp_path / "text", {}, accelerator)
    text_encoder = train_text_encoder(SOME, tokenizer, stage)
    losses = sum(history(tmp_path / "text").values())
    assert losses[-5:].mean() < 0.7 * losses[:5].mean()
    hidden = text_encoder(token_ids(tokenizer, [SOME[0].caption()]))[0]
    assert hidden.shape == (1, 77, 64)


def history(path: Path) -> dict[str, torch.Tensor]:
    """Each term of a finished training's loss."""
    kept = load_file(path)
    return {name: value for name, value in kept.items() if name.startswith("history.")}


@pytest.mark.slow
def test_all_stages_train_and_make_a_pipeline_that_diffusers_loads(
    pixels, tokenizer, accelerator, tmp_path
):
    def stage(name: str, steps: int) -> Stage:
        return Stage(steps, tmp_path / name, {"data": "some"}, accelerator)

    text_encoder = train_text_encoder(SOME, tokenizer, stage("text", 1))
    vae, latents = train_vae(torch.from_numpy(pixels), stage("vae", 6))
    assert latents.shape == (len(SOME), 6, 8, 8)
    assert latents.std().item() == pytest.approx(1, rel=1e-3)
    denoiser = train_denoiser(latents, SOME, tokenizer, text_encoder, stage("denoiser", 4))
    for name, term in (("vae", "error"), ("denoiser", "velocity")):
        losses = history(tmp_path / name)[f"history.{term}"]
        assert losses[-1] < losses[0], name
    assemble(vae, tokenizer, denoiser.text_encoder, denoiser.unet).save_pretrained(tmp_path / "sd")
    size = sum(path.stat().st_size for path in (tmp_path / "sd").rglob("*"))
    assert size < 25e6 and not list((tmp_path / "sd").rglob("*.bin"))
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "sd")
    loaded.set_progress_bar_config(disable=True)
    drawn = draw_scenes(loaded, SOME[:2], guidance_scale=2.0, steps=2, seed=0)
    assert drawn.shape == (2, 32, 32, 3)


@pytest.mark.slow
def test_a_stage_resumes_to_the_same_weights_and_refuses_another_stages_data(
    tokenizer, accelerator, tmp_path, monkeypatch
):
    monkeypatch.setattr("invcap.tiny_sd.train.IMAGES", 3)
    latents = torch.randn(len(SOME), 6, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    text_encoder = new_text_encoder(tokenizer)

    def train_at(path: Path, data: str = "a") -> dict[str, torch.Tensor]:
        stage = Stage(3, path, {"data": data}, accelerator, checkpoint_every=1)
        return train_denoiser(latents, SOME, tokenizer, text_encoder, stage).state_dict()

    whole = train_at(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill = kill_at(3)
        patch.setattr(
            "invcap.tiny_sd.train.draw_steps",
            lambda *arguments: kill() or draw_steps(*arguments),
        )
        train_at(tmp_path / "killed")
    resumed = train_at(tmp_path / "killed")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    with pytest.raises(ValueError, match="cannot resume: data differs"):
        train_at(tmp_path / "killed", "b")


def test_rendered_images_are_judged_right_and_changed_ones_by_what_changed(pixels):
    assert accuracies(pixels, SOME, pixels, SOME) == dict.fromkeys(asdict(SOME[0]), 1.0)
    square = Scene("large", "red", "square", "in the center", "black")
    ring = replace(square, shape="ring")
    images = np.stack([np.asarray(draw(scene)) for scene in (square, ring)])
    found = accuracies(images, [square, square], images, [square, ring])
    assert found == {"size": 1, "colour": 1, "shape": 0.5, "place": 1, "background": 1}
