import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from invcap.encoders.autoencoder import ConvAutoencoder
from invcap.encoders.images import (
    AutoencoderImages,
    conv_channels,
    load_autoencoder,
    save_autoencoder,
)
from invcap.encoders.load import load_image_encoder
from invcap.encoders.sentences import SentenceEncoder
from invcap.hashing import fingerprint


def tiny_kl() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
    )


def tiny_tiny() -> AutoencoderTiny:
    torch.manual_seed(0)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )


@pytest.mark.parametrize("make", [tiny_kl, tiny_tiny, ConvAutoencoder])
def test_any_autoencoder_encodes_bytes_and_decodes_to_bytes(make, tmp_path):
    save_autoencoder(make(), tmp_path)
    encoder = AutoencoderImages(load_autoencoder(str(tmp_path)), (16, 24))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), np.uint8)
    latents = encoder.encode(pixels)
    assert latents.shape == (3, encoder.features) == (3, np.prod(encoder.latent_shape))
    assert encoder.decode(latents).shape == pixels.shape
    assert encoder.decode(latents).dtype == np.uint8
    torch.testing.assert_close(encoder.encode(pixels[1:2])[0], latents[1], rtol=1e-4, atol=1e-4)
    moved = latents.clone().requires_grad_()
    projected, drawn = encoder.project(moved), encoder.encode(encoder.decode(latents))
    # Between both lies the rounding of pixels to bytes.
    assert (projected - drawn).norm() < 0.05 * drawn.norm()
    projected.sum().backward()
    assert moved.grad.abs().max() > 0


def test_channels_come_as_near_as_whole_ones_can_to_a_count_of_numbers():
    assert conv_channels((32, 32), 384) == 6
    assert conv_channels((16, 24), 48) == 2
    assert conv_channels((36, 32), 384) == 5
    assert conv_channels((256, 256), 384) == 1


@pytest.mark.parametrize("size", [(30, 32), (2, 2)])
def test_a_size_that_patches_do_not_tile_is_named(size):
    with pytest.raises(
        ValueError, match=f"size must be multiples of 4, .* got {size[0]}x{size[1]}"
    ):
        conv_channels(size, 384)


def test_a_saved_encoder_loads_by_its_kind_and_does_the_same(tmp_path):
    encoder = AutoencoderImages(tiny_kl(), (16, 24))
    encoder.save(tmp_path / "image_encoder")
    loaded = load_image_encoder(tmp_path / "image_encoder")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), np.uint8)
    latents = encoder.encode(pixels)
    assert loaded.size == encoder.size
    assert loaded.fingerprint == encoder.fingerprint
    assert torch.equal(loaded.encode(pixels), latents)
    assert np.array_equal(loaded.decode(latents), encoder.decode(latents))


def test_an_unknown_kind_of_encoder_is_refused_by_name(tmp_path):
    (tmp_path / "encoder.json").write_text('{"kind": "camera"}')
    with pytest.raises(ValueError, match=r"encoder.json: expected one of .* got 'camera'"):
        load_image_encoder(tmp_path)


def test_a_fingerprint_changes_with_one_weight():
    model = ConvAutoencoder(channels=8)
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        model.decoder[0].bias[0] += 1
    assert fingerprint(model) != before


def test_a_folder_without_an_autoencoder_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match=r"expected one of ConvAutoencoder, .* got UNet2DModel"):
        load_autoencoder(str(tmp_path))


def test_like_sentences_have_like_embeddings():
    encoder = SentenceEncoder()
    a, b, c = encoder.encode(["a red square", "a square that is red", "the stock market fell"])
    assert encoder.features == 384
    assert torch.dist(a, b) < 0.6 * torch.dist(a, c)
