from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from invcap.data.shapes import draw, scenes
from invcap.encoders.autoencoder import to_unit_range
from invcap.encoders.components import principal_components
from invcap.encoders.feature_autoencoder import (
    FeatureAutoencoder,
    FeatureSettings,
    drawing_loss,
    train_feature_autoencoder,
)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    chosen = list(scenes())[:: 23760 // 400]
    return torch.from_numpy(np.stack([np.asarray(draw(scene)) for scene in chosen]))


@pytest.fixture(scope="module")
def features(pixels) -> Tensor:
    """Of each image: the mean colour of 2 x 2 quarters."""
    return pixels.float().view(-1, 2, 16, 2, 16, 3).mean((2, 4)).flatten(1)


def fit(
    features: Tensor, pixels: Tensor, settings: FeatureSettings, path: Path
) -> FeatureAutoencoder:
    return train_feature_autoencoder(
        principal_components(features, settings.components),
        len(pixels),
        lambda chosen: (features[chosen], pixels[chosen]),
        settings,
        path,
        {},
        Accelerator(cpu=True),
    )


@pytest.mark.slow
def test_learned_numbers_draw_what_the_features_lack_on_other_images(features, pixels, tmp_path):
    images = to_unit_range(pixels[1::2])
    errors = []
    for learned in (0, 32):
        settings = FeatureSettings(learned=learned, side=32, steps=100)
        model = fit(features[::2], pixels[::2], settings, tmp_path / str(learned))
        with torch.no_grad():
            drawn = model.decode(model.encode(features[1::2], images))
        errors.append((drawn - images).square().mean())
    variance = (images - images.mean(0)).square().mean()
    assert errors[1] < 0.6 * errors[0] < 0.6 * variance


@pytest.mark.slow
def test_one_seed_gives_one_autoencoder_and_components_stay_as_they_are(features, pixels, tmp_path):
    settings = FeatureSettings(components=5, learned=3, side=32, steps=3, batch_size=8)
    first, second = (fit(features, pixels, settings, tmp_path / name) for name in "ab")
    weights = first.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in second.state_dict().items())
    components = principal_components(features, 5)
    assert torch.equal(first.mean, components.mean)
    assert torch.equal(first.directions, components.directions)
    latents = first.encode(features, to_unit_range(pixels))
    assert torch.equal(latents[:, :5], (features - components.mean) @ components.directions)


@pytest.mark.parametrize("side", [16, 32, 128])
def test_it_draws_at_its_side_and_saves_and_loads_as_diffusers_models_do(side, tmp_path):
    model = FeatureAutoencoder(7, 4, 3, side, channels=16).eval()
    images, features = torch.rand(2, 3, side, side), torch.rand(2, 7)
    latents = model.encode(features, images)
    assert latents.shape == (2, 7)
    assert model.decode(latents).shape == images.shape
    model.save_pretrained(tmp_path)
    loaded = FeatureAutoencoder.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert torch.equal(loaded.encode(features, images), latents)


def test_the_loss_is_zero_for_the_image_itself_alone():
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)

    class Copies:
        def __init__(self, offset: float) -> None:
            self.offset = offset

        def encode(self, features: Tensor, images: Tensor) -> Tensor:
            return images

        def decode(self, latents: Tensor) -> Tensor:
            return latents + self.offset

    one, zero = torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)
    batch = {"features": torch.zeros(2, 1), "pixels": pixels, "noise": zero, "kept": one}
    assert drawing_loss(Copies(0.0), batch)["error"] == 0
    assert drawing_loss(Copies(0.1), batch)["error"] == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"components": 0}, "features components must be at least 1, got 0"),
        ({"learned": -1}, "learned must be at least 0, got -1"),
        ({"side": 48}, "side must be a power of two, at least 16, got 48"),
        ({"side": 8}, "side must be a power of two, at least 16, got 8"),
        ({"steps": 0}, "features steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and above 0, got 0.0"),
        ({"noise": -0.1}, "noise must be finite and at least 0, got -0.1"),
        ({"dropped": 1.0}, "dropped must be from 0 to below 1, got 1.0"),
        ({"component_noise": float("inf")}, "component_noise must be finite and at least 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        FeatureSettings(**settings)
