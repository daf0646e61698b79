import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from tiny_backbones import write_backbone

from invcap.data import load_examples
from invcap.data.example import Examples
from invcap.data.settings import DataSettings
from invcap.encoders.components import principal_components
from invcap.encoders.feature_autoencoder import FeatureSettings
from invcap.encoders.features import FeatureImages
from invcap.encoders.load import load_image_encoder
from invcap.encoders.make import EncoderSettings, default_size, encode, make_image_encoder

SIZE = (32, 32)
COUNT = 40
SETTINGS = FeatureSettings(components=6, learned=4, side=16, steps=3, batch_size=8)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Examples:
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    lines = []
    for number in range(COUNT):
        blocks = draw.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(blocks).resize(SIZE, Image.Resampling.NEAREST).save(
            folder / f"{number}.png"
        )
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"picture {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return load_examples(str(folder))


@pytest.fixture(scope="module")
def data() -> DataSettings:
    return DataSettings("pictures", size=SIZE, held_out=0.2, augment=1)


@pytest.fixture(scope="module")
def name(tmp_path_factory) -> str:
    return "features:" + write_backbone("vit", tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def encoder(source, data, name, cache, accelerator) -> FeatureImages:
    settings = EncoderSettings(name, features=SETTINGS)
    return make_image_encoder(source, data, 384, settings, cache, accelerator)


def pixels(source: Examples) -> np.ndarray:
    return np.stack([np.asarray(example.open()) for example in source.examples])


def test_latents_are_components_and_learned_numbers_and_decode_to_small_images(encoder, source):
    latents = encoder.encode(pixels(source))
    assert latents.shape == (COUNT, encoder.features) == (COUNT, 10)
    drawn = encoder.decode(latents)
    assert drawn.shape == (COUNT, 16, 16, 3) and drawn.dtype == np.uint8
    assert encoder.encode(drawn).shape == latents.shape


def test_images_are_encoded_once_for_training_and_latents(
    encoder, source, data, cache, accelerator, monkeypatch
):
    assert encoder.backbone.features == 16
    monkeypatch.setattr(encoder.backbone, "encode", None)
    images = encode(source, data, encoder, cache, accelerator)
    monkeypatch.undo()
    rows = images.rows()[torch.arange(COUNT) * 2]
    torch.testing.assert_close(rows, encoder.encode(pixels(source)), rtol=1e-3, atol=1e-3)
    assert images.names == [example.name for example in source.examples]
    assert set(images.pngs()) == set(np.flatnonzero(images.held_out))
    assert 0 < images.held_out.sum() < COUNT


def test_components_of_the_training_images_have_unit_variance_and_no_correlation(
    encoder, source, data, cache, accelerator
):
    images = encode(source, data, encoder, cache, accelerator)
    chosen = torch.from_numpy(np.flatnonzero(~images.held_out.repeat(2)))
    components = images.rows()[chosen][:, :6]
    torch.testing.assert_close(components.T.cov(correction=0), torch.eye(6), rtol=0, atol=2e-2)


def test_the_same_images_give_the_same_encoder_without_training(
    encoder, source, data, name, cache, accelerator, monkeypatch
):
    monkeypatch.setattr("invcap.encoders.make_features.train_feature_autoencoder", None)
    settings = EncoderSettings(name, features=SETTINGS)
    again = make_image_encoder(source, data, 384, settings, cache, accelerator)
    assert again.fingerprint == encoder.fingerprint


def test_a_saved_encoder_needs_nothing_else_and_does_the_same(encoder, source, tmp_path):
    encoder.save(tmp_path / "image_encoder")
    loaded = load_image_encoder(tmp_path / "image_encoder")
    latents = encoder.encode(pixels(source))
    assert loaded.size == SIZE
    assert loaded.fingerprint == encoder.fingerprint
    assert torch.equal(loaded.encode(pixels(source)), latents)
    assert np.array_equal(loaded.decode(latents), encoder.decode(latents))


def test_a_saved_encoder_is_taken_by_its_folder_at_its_own_size(
    encoder, source, data, tmp_path, accelerator
):
    encoder.save(tmp_path)
    settings = EncoderSettings(str(tmp_path))
    found = make_image_encoder(source, data, 384, settings, tmp_path, accelerator)
    assert found.fingerprint == encoder.fingerprint
    with pytest.raises(ValueError, match=r"size must be 32x32 for the image encoder .* got 16x16"):
        make_image_encoder(
            source, DataSettings("p", size=(16, 16)), 384, settings, tmp_path, accelerator
        )


def test_images_that_are_not_square_are_refused(source, name, tmp_path, accelerator):
    with pytest.raises(ValueError, match=r"size must be square for .* got 32x48"):
        make_image_encoder(
            source,
            DataSettings("pictures", size=(32, 48)),
            384,
            EncoderSettings(name),
            tmp_path,
            accelerator,
        )


def test_backbones_get_images_at_their_usual_size_unless_told_otherwise():
    assert default_size("features") == default_size("features:some/model") == (224, 224)
    assert default_size("conv") == default_size("some/folder") == (32, 32)


def test_components_are_those_of_the_singular_values_and_as_many_as_there_are():
    rows = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) @ torch.randn(5, 8)
    found = principal_components(rows, 3)
    projected = (rows - found.mean) @ found.directions
    _, values, axes = torch.linalg.svd((rows - rows.mean(0)).double(), full_matrices=False)
    expected = (rows - rows.mean(0)).double() @ axes[:3].T / values[:3] * 50**0.5
    torch.testing.assert_close(projected.abs().double(), expected.abs(), rtol=1e-3, atol=1e-3)
    assert principal_components(rows, 100).directions.shape == (8, 5)


def test_a_projection_encodes_what_is_drawn_and_has_a_gradient(encoder):
    latents = torch.randn(3, encoder.features, requires_grad=True)
    projected = encoder.project(latents)
    drawn = encoder.encode(encoder.decode(latents))
    # Between both lies the rounding of pixels to bytes.
    assert (projected - drawn).norm() < 0.1 * (drawn - drawn.mean(0)).norm()
    projected.sum().backward()
    assert latents.grad.abs().sum(1).min() > 0
