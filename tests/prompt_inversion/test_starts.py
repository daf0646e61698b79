import json

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from invcap.diffusion.noise_samples import draw_samples
from invcap.files import write_tensors
from invcap.prompt_inversion import (
    InversionSettings,
    PromptInversionPipeline,
    few_steps,
    save_prompt_embeds,
)
from invcap.prompt_inversion.amortised import AmortisedStart
from invcap.prompt_inversion.meta import MetaSettings, reptile
from invcap.prompt_inversion.objective import bound_terms
from invcap.prompt_inversion.train_amortised import AmortisedSettings, train_amortised

STILL = InversionSettings(steps=0, held_out=4)
PROMPTS = ["a red square", "a green circle", "a room", "a green square"]


@pytest.fixture
def learned(pipeline, tmp_path):
    torch.manual_seed(0)
    hidden = pipeline.model.encode_prompts(PROMPTS).tensors["prompt_embeds"]
    latents = torch.randn(len(PROMPTS), 4, 8, 8)
    start = AmortisedStart.of(latents, hidden, codes=3, depth=2)
    for layer in start.network.layers:
        torch.nn.init.normal_(layer.lu, std=0.01)
    start.save(tmp_path / "amortised.safetensors", pipeline.model)
    save_prompt_embeds(tmp_path / "meta.safetensors", hidden.mean(0), pipeline)
    return start, hidden, latents


def test_the_basis_spans_what_captions_differ_in(learned):
    start, hidden, _ = learned
    with torch.no_grad():
        codes = start.code_of(hidden)
        back = start.mean + torch.einsum("pk,knd->pnd", codes, start.basis)
    # Four captions differ in three directions.
    torch.testing.assert_close(back, hidden, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(start.mean.detach(), hidden.mean(0))


def test_an_amortised_start_is_its_formula(learned):
    start, hidden, latents = learned
    x = (latents - latents.mean(0)) / latents.std(0)
    code = start.network(x.flatten(1))[:, :3]
    expected = hidden.mean(0).expand(len(x), -1, -1).clone()
    for picture in range(len(x)):
        for k in range(3):
            expected[picture] += code[picture, k] * start.basis[k]
    torch.testing.assert_close(start(latents), expected, rtol=1e-4, atol=1e-4)
    # Of a size that the tolerance would see missing.
    assert (expected - hidden.mean(0)).flatten(1).abs().amax(1).min() > 0.05


def test_an_amortised_start_is_read_back_in_half_precision(learned, pipeline, tmp_path):
    start, _, latents = learned
    loaded = AmortisedStart.load(tmp_path / "amortised.safetensors", pipeline.model)
    torch.testing.assert_close(loaded(latents), start(latents).detach(), rtol=1e-2, atol=1e-2)


def test_each_start_is_where_an_inversion_begins(learned, pipeline, pictures, tmp_path):
    latents = pipeline.model.encode_images(pictures)
    amortised = AmortisedStart.load(tmp_path / "amortised.safetensors", pipeline.model)(latents)
    meta = learned[1].mean(0).expand(len(pictures), -1, -1)
    given = torch.randn_like(amortised)
    for start, expected in (("amortised", amortised), ("meta", meta), (given, given)):
        found = pipeline.invert(pictures, start, STILL, starts=tmp_path, num_inference_steps=1)
        torch.testing.assert_close(found.prompt_embeds, expected, rtol=1e-5, atol=1e-5)
    one = pipeline.invert(pictures, given[0], STILL, num_inference_steps=1).prompt_embeds
    assert torch.equal(one, given[:1].expand_as(one))


def test_near_starts_take_few_steps_by_default(learned, pipeline, pictures, tmp_path):
    found = pipeline.invert(pictures[:1], "amortised", starts=tmp_path, num_inference_steps=1)
    few = few_steps(pipeline.model.schedule)
    assert found.unet_evaluations[0] == few.steps * few.draws + 4 * few.held_out


def test_starts_that_cannot_be_used_are_named(learned, pipeline, other_folder, pictures, tmp_path):
    (tmp_path / "none").mkdir()
    no_file = r"amortised\.safetensors: no such file; invcap train-starts learns"
    with pytest.raises(ValueError, match=no_file):
        pipeline.invert(pictures, "amortised", STILL, starts=tmp_path / "none")
    with pytest.raises(
        ValueError, match=r"start must have prompt_embeds of shape \(1, 77, 16\) or"
    ):
        pipeline.invert(pictures, torch.zeros(77, 15), STILL)
    with pytest.raises(ValueError, match="start must be sentences over 'tokens', got an embedding"):
        pipeline.invert(pictures, "meta", STILL, over="tokens", starts=tmp_path)
    with pytest.raises(ValueError, match="expected latents of 8 x 8, got 4 x 4"):
        pipeline.invert(pictures, "amortised", STILL, starts=tmp_path, size=(8, 8))
    with pytest.raises(ValueError, match="the start is for another model: the weights differ"):
        other = PromptInversionPipeline.from_pretrained(other_folder)
        other.invert(pictures, "amortised", STILL, starts=tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    save_prompt_embeds(broken / "amortised.safetensors", torch.zeros(77, 16), pipeline)
    with pytest.raises(ValueError, match="not an amortised start"):
        pipeline.invert(pictures, "amortised", STILL, starts=broken)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, r"not an amortised start; it has \['basis'\]"),
        ({"config": "{}", "unet": "?"}, "the signature of its model is not JSON"),
        ({"config": "?", "unet": "the model's"}, "not an amortised start that loads"),
        ({"config": '{"depth": 1}', "unet": "the model's"}, "not an amortised start that loads"),
    ],
)
def test_a_broken_file_of_an_amortised_start_is_named(pipeline, tmp_path, metadata, message):
    path = tmp_path / "amortised.safetensors"
    if metadata.get("unet") == "the model's":
        metadata = metadata | {"unet": json.dumps(pipeline.model.signature)}
    write_tensors(path, {"basis": torch.ones(2)}, **metadata)
    with pytest.raises(ValueError, match=rf"amortised\.safetensors: {message}"):
        AmortisedStart.load(path, pipeline.model)


def test_the_start_has_as_many_codes_as_captions_and_latent_numbers_allow():
    latents, hidden = torch.randn(5, 4, 2, 2), torch.randn(40, 7, 3)
    assert len(AmortisedStart.of(latents, hidden).basis) == 16
    assert len(AmortisedStart.of(latents, hidden[:6]).basis) == 6
    assert len(AmortisedStart.of(latents, hidden, codes=2).basis) == 2
    with pytest.raises(ValueError, match="hidden: expected captions that differ"):
        AmortisedStart.of(latents, hidden[:1].expand(9, 7, 3))


def test_large_latents_are_averaged_over_squares():
    latents = torch.randn(4, 4, 64, 64)
    start = AmortisedStart.of(latents, torch.randn(4, 7, 3), codes=2, depth=1)
    assert start.network.layers[0].lu.shape == (4096, 4096)
    same_means = latents.unflatten(3, (32, 2)).flip(4).flatten(3)
    torch.testing.assert_close(start(same_means), start(latents), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_training_raises_the_bound_of_the_amortised_prompts(pipeline, tmp_path):
    torch.manual_seed(0)
    model = pipeline.model
    latents = 0.1 * torch.randn(8, 4, 8, 8)
    hidden = model.encode_prompts(PROMPTS * 2).tensors["prompt_embeds"]
    hidden = hidden + 0.01 * torch.randn(8, 77, 16)
    start = AmortisedStart.of(latents, hidden, codes=4)
    codes = start.code_of(hidden).detach()
    settings = AmortisedSettings(caption_steps=30, steps=60, batch_size=16, mean_rate=0.05)
    how = (latents.flatten(1), codes, settings, {"data": "a"}, tmp_path, Accelerator(cpu=True))
    trained = train_amortised(model, start, *how)
    captions, bound = (
        load_file(tmp_path / f"{name}.safetensors")[f"history.{name}"]
        for name in ("captions", "bound")
    )
    assert captions[-1] < 0.5 * captions[0]
    assert bound[-20:].mean() < bound[:20].mean()
    again = train_amortised(model, AmortisedStart.of(latents, hidden, codes=4), *how)
    assert torch.equal(trained.basis, again.basis)


@pytest.mark.slow
def test_reptile_moves_towards_the_results_of_inversions_and_resumes(pipeline):
    model, shape = pipeline.model, (4, 8, 8)
    latents = 0.1 * torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    begin = model.encode_prompts(["a room"])
    inner = InversionSettings(steps=4, draws=2, bank=8, held_out=4, learning_rate=0.05)
    settings, kept = MetaSettings(rounds=6, images=3, inner=inner), {}
    rows = latents.flatten(1)
    end = reptile(model, rows, shape, begin, settings, 0, lambda done, s: kept.update({done: s}))
    assert list(kept) == [1, 2, 3, 4, 5, 6]
    resumed = reptile(model, rows, shape, kept[3], settings, 3)
    assert torch.equal(resumed.tensors["prompt_embeds"], end.tensors["prompt_embeds"])
    samples = draw_samples(model.schedule, 64, shape, torch.Generator().manual_seed(1)).expand(6)
    before, after = (
        bound_terms(model, latents, start[[0] * 6], samples).mean() for start in (begin, end)
    )
    assert after > before
