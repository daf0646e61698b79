import numpy as np
import pytest
import torch
from PIL import Image

from invcap import InvertibleCaptioner
from invcap.captioning.evaluate import evaluate
from invcap.captioning.run import coordinates
from invcap.captioning.scaler import Scaler
from invcap.encoders.autoencoder import ConvAutoencoder
from invcap.encoders.images import AutoencoderImages
from invcap_ext import InvertibleNetwork


def test_it_saves_and_loads_with_the_same_answers_in_both_directions(
    captioner, pairs, images, tmp_path
):
    captioner.save_pretrained(tmp_path)
    loaded = InvertibleCaptioner.from_pretrained(tmp_path)
    for ours, theirs in zip(
        captioner.caption(images[:3], 3), loaded.caption(images[:3], 3), strict=True
    ):
        assert [c.text for c in ours] == [c.text for c in theirs]
        # The candidates' embeddings are saved in float16.
        np.testing.assert_allclose([c.score for c in ours], [c.score for c in theirs], atol=1e-3)
    drawn = captioner.generate(pairs.captions[:2]), loaded.generate(pairs.captions[:2])
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*drawn, strict=True))


def test_a_folder_of_the_first_layout_loads_too(captioner, images, tmp_path):
    captioner.about = {"picture_size": [32, 32]}
    captioner.save_pretrained(tmp_path)
    (tmp_path / "image_encoder").rename(tmp_path / "autoencoder")
    (tmp_path / "autoencoder" / "encoder.json").unlink()
    loaded = InvertibleCaptioner.from_pretrained(tmp_path)
    assert loaded.image_encoder.size == (32, 32)
    np.testing.assert_allclose(loaded.embed(images[:3]), captioner.embed(images[:3]), atol=1e-5)


def test_a_caption_is_the_nearest_candidate_and_scores_are_sorted(captioner, pairs, images):
    (best,) = captioner.caption(images[0], top_k=len(pairs.captions))
    found = captioner.network(captioner.latent_scaler(pairs.latents[:1]))
    targets = captioner.embedding_scaler(pairs.embeddings)
    cosines = torch.cosine_similarity(found, targets)
    assert best[0].text == pairs.captions[cosines.argmax()]
    assert [c.score for c in best] == sorted((c.score for c in best), reverse=True)
    np.testing.assert_allclose(best[0].score, cosines.max(), rtol=1e-3)


def test_paths_and_images_of_any_size_and_mode_are_captioned(captioner, tmp_path):
    Image.new("LA", (70, 41), (90, 128)).save(tmp_path / "odd.png")
    both = captioner.caption([tmp_path / "odd.png", Image.open(tmp_path / "odd.png")])
    (one,), (other,) = both
    assert one.text == other.text and one.score == pytest.approx(other.score, abs=1e-5)


def test_new_candidates_are_chosen_from(captioner, images):
    captioner.set_candidates(["a whale", "a fiddle"])
    assert captioner.caption(images[0])[0][0].text in ("a whale", "a fiddle")


def test_a_generated_image_is_decoded_from_the_inverse_of_its_sentence(captioner, pairs):
    (drawn,) = captioner.generate(pairs.captions[0], refine_steps=0)
    x = captioner.network.inverse(captioner.embedding_scaler(pairs.embeddings[:1]))
    expected = captioner.image_encoder.decode(captioner.latent_scaler.inverse(x))[0]
    difference = np.abs(np.asarray(drawn).astype(int) - expected)
    assert drawn.size == (32, 32) and difference.max() <= 1


def test_a_wider_network_answers_in_both_directions_and_loads_again(
    captioner, pairs, images, tmp_path
):
    torch.manual_seed(0)
    captioner.network = InvertibleNetwork(400, 2)
    x = captioner.latent_scaler(pairs.latents[:3])
    found = captioner.network(torch.nn.functional.pad(x, (0, 16)))[:, :384]
    torch.testing.assert_close(captioner.embed(images[:3]), found, atol=1e-4, rtol=1e-4)
    assert (found[0] - found[1]).abs().max() > 0.1
    with pytest.raises(ValueError, match="temperature must be 0"):
        captioner.generate("a red square", temperature=1.0)
    metrics = evaluate(captioner, pairs)
    assert metrics["round_trip"]["max_abs_error"] < 1e-4
    captioner.save_pretrained(tmp_path)
    loaded = InvertibleCaptioner.from_pretrained(tmp_path)
    drawn = (model.generate(pairs.captions[0])[0].tobytes() for model in (captioner, loaded))
    assert len(set(drawn)) == 1


def test_a_redrawn_image_is_decoded_from_the_latent_of_the_image(captioner, images):
    latents = captioner.image_encoder.encode(np.asarray(images[0])[None])
    expected = captioner.image_encoder.decode(latents)[0]
    (redrawn,) = captioner.redraw(images[0])
    assert np.abs(np.asarray(redrawn).astype(int) - expected).max() <= 1


def test_sampling_follows_its_generator_and_needs_a_sigma(captioner, pairs):
    with pytest.raises(ValueError, match="temperature must be 0 for a model that has nothing"):
        captioner.generate("a star", temperature=1.0)
    captioner.sigma = 0.5
    first, second, other = (
        captioner.generate("a star", 1.0, torch.Generator().manual_seed(seed))[0].tobytes()
        for seed in (0, 0, 1)
    )
    assert first == second != other


def test_samples_differ_in_the_variations_which_are_saved(captioner, tmp_path):
    captioner.embedding_scaler = Scaler(torch.zeros(384), torch.ones(376), torch.eye(384)[:, :376])
    captioner.variations = 2
    captioner.save_pretrained(tmp_path)
    captioner = InvertibleCaptioner.from_pretrained(tmp_path)
    seen = []
    captioner.draw = lambda e, residual, steps: seen.append(residual) or []
    captioner.generate("a star", temperature=2.0, samples=200)
    assert seen[0].shape == (200, 2)
    assert 1.7 < seen[0].std() < 2.3


@pytest.mark.parametrize("side", ["narrow", "wide"])
def test_latents_may_have_fewer_or_more_numbers_than_embeddings(side, pairs, sentences, tmp_path):
    torch.manual_seed(0)
    channels = {"narrow": 2, "wide": 8}[side]
    autoencoder = ConvAutoencoder(latent_channels=channels, channels=8, blocks=1)
    encoder = AutoencoderImages(autoencoder, (32, 32))
    network = InvertibleNetwork(encoder.features, 2, negative_slope=0.5)
    latents = Scaler(torch.zeros(encoder.features), torch.ones(encoder.features))
    captions = coordinates(pairs.embeddings, 384, encoder.features)
    made = InvertibleCaptioner(
        network, encoder, sentences, latents, captions, pairs.captions, pairs.embeddings
    )
    made.save_pretrained(tmp_path)
    loaded = InvertibleCaptioner.from_pretrained(tmp_path)
    image = Image.new("RGB", (32, 32), "red")
    assert loaded.embed(image).shape == (1, min(384, encoder.features))
    assert loaded.caption(image)[0][0].text == made.caption(image)[0][0].text
    expected, again, *samples = (
        loaded.generate("a star", temperature, torch.Generator().manual_seed(seed))[0].tobytes()
        for temperature, seed in ((0.0, 0), (0.0, 1), (1.0, 0), (1.0, 1))
        if not temperature or side == "wide"
    )
    assert expected == again and len({expected, *samples}) == 1 + len(samples)
    if side == "wide":
        drawn = loaded.generate(["a star", "a ring"], 0.5, torch.Generator(), samples=3)
        assert len({image.tobytes() for image in drawn}) == 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.generate("a star", samples=0), "samples must be at least 1, got 0"),
        (lambda m: m.caption(Image.new("RGB", (8, 8)), top_k=0), "top_k must be from 1 to"),
        (lambda m: m.generate("a star", refine_steps=-1), "refine_steps must be 0, or above"),
        (lambda m: m.generate([" "]), "texts must hold sentences"),
        (lambda m: m.generate([]), "texts must hold sentences"),
        (lambda m: m.generate("a star", float("nan")), "temperature must be finite"),
        (lambda m: m.caption([]), "images must hold at least one image"),
        (lambda m: m.set_candidates([]), "captions must hold at least one sentence"),
        (lambda m: m.caption("no/such/file.png"), "no/such/file.png"),
    ],
)
def test_bad_input_is_named(captioner, call, message):
    with pytest.raises((ValueError, OSError), match=message):
        call(captioner)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "captions.json"])
def test_a_missing_file_of_a_model_is_named(captioner, tmp_path, name):
    captioner.save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: no such file"):
        InvertibleCaptioner.from_pretrained(tmp_path)


def test_many_candidates_are_searched_a_part_at_a_time(captioner, images, monkeypatch):
    whole = captioner.caption(images[:2], 5)
    monkeypatch.setattr("invcap.captioning.nearest.AT_ONCE", 7)
    parts = captioner.caption(images[:2], 5)
    assert [[c.text for c in one] for one in parts] == [[c.text for c in one] for one in whole]
