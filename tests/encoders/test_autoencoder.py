import numpy as np
import torch

from invcap.data.shapes import draw, scenes
from invcap.encoders.autoencoder import (
    AutoencoderSettings,
    ConvAutoencoder,
    to_bytes,
    to_unit_range,
    train_autoencoder,
)

SETTINGS = AutoencoderSettings(steps=40, batch_size=16)


def shapes(count: int) -> np.ndarray:
    return np.stack([np.asarray(draw(scene)) for scene in list(scenes())[:: 23760 // count]])


def test_bytes_survive_the_way_to_floats_and_back():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_bytes(to_unit_range(pixels)), pixels)


def test_training_beats_answering_the_mean_picture_on_other_pictures():
    pixels = shapes(400)
    model = train_autoencoder(pixels[::2], 6, SETTINGS)
    pictures = to_unit_range(pixels[1::2])
    with torch.no_grad():
        decoded = model.decode(model.encode(pictures).latents).sample
    variance = (pictures - pictures.mean(0)).square().mean()
    assert (decoded - pictures).square().mean() < 0.25 * variance


def test_one_seed_gives_one_autoencoder_and_leaves_the_global_generator_alone():
    pixels = shapes(60)
    settings = AutoencoderSettings(steps=3, batch_size=8)
    torch.manual_seed(5)
    first = train_autoencoder(pixels, 6, settings).state_dict()
    after = torch.rand(1)
    second = train_autoencoder(pixels, 6, settings).state_dict()
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_latents_have_unit_variance_per_channel():
    pixels = shapes(400)
    model = train_autoencoder(pixels, 6, SETTINGS)
    with torch.no_grad():
        latents = model.encode(to_unit_range(pixels)).latents
    deviation = latents.std(dim=(0, 2, 3))
    assert deviation.min() > 0.5 and deviation.max() < 2


def test_it_saves_and_loads_as_diffusers_models_do(tmp_path):
    model = ConvAutoencoder(latent_channels=4, patch=2, channels=8, blocks=1).eval()
    model.save_pretrained(tmp_path)
    loaded = ConvAutoencoder.from_pretrained(tmp_path)
    pictures = torch.rand(2, 3, 8, 12)
    assert torch.equal(loaded.encode(pictures).latents, model.encode(pictures).latents)
    assert loaded.encode(pictures).latents.shape == (2, 4, 4, 6)
