from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from invcap.data.shapes import draw, scenes
from invcap.encoders.autoencoder import (
    AutoencoderSettings,
    ConvAutoencoder,
    to_bytes,
    to_unit_range,
    train_autoencoder,
)

SETTINGS = AutoencoderSettings(steps=40, batch_size=16)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    chosen = list(scenes())[:: 23760 // 400]
    return torch.from_numpy(np.stack([np.asarray(draw(scene)) for scene in chosen]))


def fit(
    pixels: Tensor, settings: AutoencoderSettings, path: Path, accelerator: Accelerator
) -> ConvAutoencoder:
    return train_autoencoder(pixels.flatten(1), (32, 32), 6, settings, path, {}, accelerator)


def test_bytes_survive_the_way_to_floats_and_back():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_bytes(to_unit_range(pixels)), pixels)


@pytest.mark.slow
def test_training_beats_answering_the_mean_image_on_other_images_with_latents_of_unit_variance(
    pixels, accelerator, tmp_path
):
    model = fit(pixels[::2], SETTINGS, tmp_path / "a", accelerator)
    images = to_unit_range(pixels[1::2])
    with torch.no_grad():
        latents = model.encode(images).latents
        decoded = model.decode(latents).sample
    variance = (images - images.mean(0)).square().mean()
    assert (decoded - images).square().mean() < 0.25 * variance
    deviation = latents.std(dim=(0, 2, 3))
    assert deviation.min() > 0.5 and deviation.max() < 2


def test_one_seed_gives_one_autoencoder_and_leaves_the_global_generator_alone(
    pixels, accelerator, tmp_path
):
    settings = AutoencoderSettings(steps=3, batch_size=8)
    torch.manual_seed(5)
    first = fit(pixels, settings, tmp_path / "a", accelerator).state_dict()
    after = torch.rand(1)
    second = fit(pixels, settings, tmp_path / "b", accelerator).state_dict()
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "autoencoder steps must be at least 1, got 0"),
        ({"batch_size": 0}, "autoencoder batch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite and above 0, got nan"),
        ({"noise": float("inf")}, "noise must be finite and at least 0, got inf"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderSettings(**settings)


def test_it_saves_and_loads_as_diffusers_models_do(tmp_path):
    model = ConvAutoencoder(latent_channels=4, patch=2, channels=8, blocks=1).eval()
    model.save_pretrained(tmp_path)
    loaded = ConvAutoencoder.from_pretrained(tmp_path)
    pictures = torch.rand(2, 3, 8, 12)
    assert torch.equal(loaded.encode(pictures).latents, model.encode(pictures).latents)
    assert loaded.encode(pictures).latents.shape == (2, 4, 4, 6)
