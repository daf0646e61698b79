from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from kills import KilledError, kill_at
from safetensors.torch import load_file
from torch.nn.functional import pad

from invcap.data.shapes import Scene, draw, jitter_of, scenes
from invcap.diffusion.families import load_model
from invcap.tiny_sd import stable_diffusion, stable_diffusion_3
from invcap.tiny_sd.autoencoder import draw_images, encode, new_vae, train_vae
from invcap.tiny_sd.captions import draw_caption
from invcap.tiny_sd.denoiser import draw_times, train_denoiser
from invcap.tiny_sd.evaluate import accuracies, draw_scenes
from invcap.tiny_sd.stage import Stage, token_ids
from invcap.tiny_sd.text import Reader, draw_named, reader_loss, train_text
from invcap.tiny_sd.tokenizer import train_tokenizer

SOME = list(scenes())[::2970]
each_family = pytest.mark.parametrize(
    "family", [stable_diffusion, stable_diffusion_3], ids=["sd", "sd3"]
)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(scene.caption(i) for scene in SOME for i in range(5))


def new_denoiser(family: ModuleType) -> torch.nn.Module:
    torch.manual_seed(0)
    return family.Denoiser.new(family_tokenizer(family))


def family_tokenizer(family: ModuleType):
    captions = (scene.caption(i) for scene in SOME for i in range(5))
    return train_tokenizer(captions, length=family.TOKENS)


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


def test_times_cover_all_noise_levels_the_late_ones_more():
    times = draw_times(1000, torch.Generator().manual_seed(0))
    assert 0 <= times.min() < 0.01 and 0.99 < times.max() < 1
    assert 0.55 < (times >= 0.5).float().mean() < 0.7


def test_every_drawing_is_a_new_one():
    generator = torch.Generator().manual_seed(0)
    drawn = draw_images([SOME[0]] * 3, generator)
    assert drawn.shape == (3, 32, 32, 3) and drawn.dtype == torch.uint8
    assert not (drawn[0] == drawn[1]).all() and not (drawn[1] == drawn[2]).all()


@each_family
def test_no_caption_is_cut(family):
    tokenizer = family_tokenizer(family)
    longest = max(scene.caption(i) for scene in SOME for i in range(5))
    assert len(tokenizer(longest).input_ids) <= family.TOKENS
    assert tokenizer.model_max_length == family.TOKENS


def test_captions_count_for_the_factors_that_they_name_and_all_factors_alike(tokenizer):
    batch = draw_named(SOME, tokenizer, torch.Generator().manual_seed(1), slice(None))
    assert batch["ids"].shape == (64, 77) and batch["values"].shape == (64, 5)
    torch.testing.assert_close(batch["weights"].mean(0), torch.ones(5))
    unnamed = (batch["weights"] == 0).all(1)
    assert unnamed.any() and set(tokenizer.batch_decode(batch["ids"][unnamed], True)) == {""}


def test_a_factor_that_no_caption_names_costs_nothing(tokenizer, monkeypatch):
    monkeypatch.setattr("invcap.tiny_sd.text.draw_wording", lambda generator: "a {shape}")
    batch = draw_named(SOME, tokenizer, torch.Generator(), slice(None))
    reader = Reader(new_denoiser(stable_diffusion).text, tokenizer)
    losses = reader_loss(reader, batch)
    assert {name for name, loss in losses.items() if loss} == {"shape"}


def test_parts_of_a_batch_are_of_one_draw(tokenizer):
    def draw_part(part: slice) -> dict[str, torch.Tensor]:
        return draw_named(SOME, tokenizer, torch.Generator().manual_seed(2), part)

    parts, whole = [draw_part(slice(0, 30)), draw_part(slice(30, 64))], draw_part(slice(None))
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value)


def history(path: Path) -> dict[str, torch.Tensor]:
    """Each term of a finished training's loss."""
    kept = load_file(path)
    return {name: value for name, value in kept.items() if name.startswith("history.")}


@pytest.mark.slow
@each_family
def test_text_encoders_learn_what_captions_name(family, accelerator, tmp_path, monkeypatch):
    monkeypatch.setattr("invcap.tiny_sd.text.CAPTIONS", 16)
    stage = Stage(40, tmp_path / "text", {}, accelerator)
    text = train_text(new_denoiser(family).text, SOME, family_tokenizer(family), stage)
    losses = sum(history(tmp_path / "text").values())
    assert losses[-5:].mean() < 0.7 * losses[:5].mean()
    hidden, _ = text(token_ids(family_tokenizer(family), [SOME[0].caption()]))
    assert hidden.shape[:2] == (1, family.TOKENS)


@each_family
def test_the_error_is_that_of_the_velocity_that_the_models_predict(family):
    """Against `predict_noise` of the model as diffusers has it, with T5's zeros."""
    torch.manual_seed(0)
    denoiser, tokenizer = new_denoiser(family).eval(), family_tokenizer(family)
    latents, noise = torch.randn(2, 6, 8, 8), torch.randn(2, 1, 6, 8, 8)
    times = torch.tensor([[0.3], [0.8]])
    ids = token_ids(tokenizer, [scene.caption() for scene in SOME[:2]])
    with torch.no_grad():
        error = denoiser.error(latents, ids, noise, times)
        hidden, pooled = denoiser.text(ids)
        if family is stable_diffusion:
            schedule, steps = denoiser.schedule, (times[:, 0] * 1000).long()
            signal, spread = (scale.view(2, 1, 1, 1).float() for scale in schedule.scales(steps))
            noisy = signal * latents + spread * noise[:, 0]
            predicted = denoiser.unet(noisy, steps, hidden).sample
            wanted = signal * noise[:, 0] - spread * latents
        else:
            s = times.view(2, 1, 1, 1)
            predicted = denoiser.transformer(
                hidden_states=(1 - s) * latents + s * noise[:, 0],
                timestep=1000 * times[:, 0],
                encoder_hidden_states=pad(hidden, (0, 0, 0, 256)),
                pooled_projections=pooled,
            ).sample
            wanted = noise[:, 0] - latents
    torch.testing.assert_close(error, (predicted - wanted).square().mean())


@pytest.mark.slow
@each_family
def test_all_stages_train_and_make_a_pipeline_that_diffusers_loads(family, accelerator, tmp_path):
    tokenizer = family_tokenizer(family)

    def stage(name: str, steps: int) -> Stage:
        return Stage(steps, tmp_path / name, {"data": "some"}, accelerator)

    vae = train_vae(new_vae(), SOME, stage("vae", 6))
    denoiser = new_denoiser(family)
    denoiser.text = train_text(denoiser.text, SOME, tokenizer, stage("text", 1))
    denoiser = train_denoiser(denoiser, vae, SOME, tokenizer, stage("denoiser", 4))
    for name, term in (("vae", "error"), ("denoiser", "velocity")):
        losses = history(tmp_path / name)[f"history.{term}"]
        assert losses[-1] < losses[0], name
    denoiser.assemble(vae, tokenizer).save_pretrained(tmp_path / "model")
    size = sum(path.stat().st_size for path in (tmp_path / "model").rglob("*"))
    assert size < 12e6 and not list((tmp_path / "model").rglob("*.bin"))
    loaded = load_model(tmp_path / "model", dtype=torch.float32).pipeline
    assert isinstance(loaded, DiffusionPipeline)
    loaded.set_progress_bar_config(disable=True)
    drawn = draw_scenes(loaded, SOME[:2], guidance_scale=2.0, steps=2, seed=0)
    assert [image.size for image in drawn] == [(32, 32)] * 2


def test_scaled_latents_have_unit_variance(accelerator, tmp_path):
    vae = train_vae(new_vae(), SOME, Stage(1, tmp_path / "vae", {}, accelerator))
    images = draw_images(SOME, torch.Generator().manual_seed(0))
    latents = encode(vae, images) * vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, rel=1e-3)


@pytest.mark.slow
@each_family
def test_a_stage_resumes_to_the_same_weights_and_refuses_another_stages_data(
    family, accelerator, tmp_path, monkeypatch
):
    monkeypatch.setattr("invcap.tiny_sd.denoiser.IMAGES", 3)
    torch.manual_seed(0)
    vae = new_vae()

    def train_at(path: Path, data: str = "a") -> dict[str, torch.Tensor]:
        stage = Stage(3, path, {"data": data}, accelerator, checkpoint_every=1)
        tokenizer = family_tokenizer(family)
        return train_denoiser(new_denoiser(family), vae, SOME, tokenizer, stage).state_dict()

    whole = train_at(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill = kill_at(3)
        patch.setattr(
            "invcap.tiny_sd.denoiser.draw_times",
            lambda *arguments: kill() or draw_times(*arguments),
        )
        train_at(tmp_path / "killed")
    resumed = train_at(tmp_path / "killed")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    with pytest.raises(ValueError, match="cannot resume: data differs"):
        train_at(tmp_path / "killed", "b")


def test_drawings_are_judged_right_and_changed_ones_by_what_changed():
    images = [draw(scene, jitter=jitter_of(scene, 0)) for scene in SOME]
    found = accuracies(images, SOME)
    assert {factor for factor, share in found.items() if share < 1} <= {"size"}
    square = Scene("large", "red", "square", "in the center", "black")
    ring = replace(square, shape="ring")
    found = accuracies([draw(scene) for scene in (square, ring)], [square, square])
    assert found == dict.fromkeys(asdict(square), 1.0) | {"shape": 0.5}
