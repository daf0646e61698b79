import numpy as np
import pytest
import torch

from invcap.captioning.pairs import make_pairs
from invcap.captioning.scaler import Scaler
from invcap.data.encode import decode_png, encode_images
from invcap.data.example import Examples, ExampleTable
from invcap.data.settings import DataSettings
from invcap.data.split import is_held_out

SETTINGS = DataSettings("three", held_out=0.4)
SAID = [("one", "two"), ("three",), ("two", "four"), ("five",), ("two", "six")]


@pytest.fixture
def source(images) -> Examples:
    names = [str(number) for number in range(len(SAID))]
    return Examples(ExampleTable(names, SAID, names, lambda index: images[index]), identity="three")


@pytest.fixture
def encode(encoder, sentences, accelerator, tmp_path):
    def run(source: Examples, settings: DataSettings = SETTINGS, dtype: str = "float32"):
        images = encode_images(
            source,
            settings,
            lambda pixels: encoder.encode(pixels).numpy(),
            encoder.features,
            encoder.fingerprint,
            tmp_path,
            accelerator,
            dtype,
        )
        return [
            make_pairs(images, side, sentences, tmp_path, accelerator, dtype)
            for side in (False, True)
        ]

    return run


def said(pairs) -> set[tuple[str, str]]:
    rows = zip(pairs.image.tolist(), pairs.caption.tolist(), strict=True)
    return {(pairs.names[image], pairs.captions[caption]) for image, caption in rows}


def all_of(rows) -> torch.Tensor:
    return rows[torch.arange(len(rows))]


def test_each_side_has_its_own_images_captions_and_numbers(source, encode, encoder, sentences):
    every = {(str(number), text) for number, texts in enumerate(SAID) for text in texts}
    training, held_out = encode(source)
    assert said(training) | said(held_out) == every
    for side, pairs in ((False, training), (True, held_out)):
        assert all(is_held_out(name, SETTINGS.held_out, 0) == side for name in pairs.names)
        assert len(set(pairs.captions)) == len(pairs.captions) == len(pairs.embeddings)
        torch.testing.assert_close(all_of(pairs.embeddings), sentences.encode(pairs.captions))
        pixels = np.stack([np.asarray(source.examples[int(n)].open()) for n in pairs.names])
        torch.testing.assert_close(all_of(pairs.latents), encoder.encode(pixels))
    assert np.array_equal(decode_png(held_out.pngs[0]), pixels[0])


def test_variants_of_training_images_follow_each_image(source, encode):
    plain, _ = encode(source)
    training, held_out = encode(source, DataSettings("three", held_out=0.4, augment=2))
    assert training.variants == 3 and held_out.variants == 1
    rows = all_of(training.latents).view(len(plain.names), 3, -1)
    torch.testing.assert_close(rows[:, 0], all_of(plain.latents))
    assert (rows[:, 1] - rows[:, 0]).norm() > 0.05 * rows[:, 0].norm()


def test_half_precision_on_disk_is_float32_when_read(source, encode):
    training, _ = encode(source)
    half, _ = encode(source, dtype="float16")
    for name in ("latents", "embeddings"):
        one, other = all_of(getattr(training, name)), all_of(getattr(half, name))
        assert other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        assert not torch.equal(one, other)


def test_what_was_encoded_is_found_again_and_a_broken_shard_is_made_anew(
    source, encode, encoder, monkeypatch, tmp_path
):
    first, _ = encode(source)
    calls = []
    real = type(encoder).encode
    monkeypatch.setattr(
        type(encoder), "encode", lambda self, pixels: calls.append(1) or real(self, pixels)
    )
    encode(source)
    assert not calls
    (shard,) = tmp_path.glob("images-*/*.arrow")
    shard.unlink()  # the old file is still mapped
    shard.write_bytes(b"broken")
    again, _ = encode(source)
    assert calls and torch.equal(all_of(again.latents), all_of(first.latents))
    source.identity = "other"
    assert encode(source)[0].identity != first.identity


def test_a_scaler_standardizes_rows_and_undoes_it():
    rows = 3 + 2 * torch.randn(20_000, 5, generator=torch.Generator().manual_seed(0))
    rows[:, 4] = 7
    scaler = Scaler.of(rows)
    scaled = scaler(rows)
    torch.testing.assert_close(scaled[:, :4].mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled[:, :4].std(0, correction=0), torch.ones(4))
    assert not scaled[:, 4].any()
    torch.testing.assert_close(scaler.inverse(scaled), rows)


def test_training_rows_are_in_memory_unless_they_take_too_much(source, encode, monkeypatch):
    small, _ = encode(source)
    monkeypatch.setattr("invcap.captioning.pairs.MOST_IN_MEMORY", 4 * 384)
    large, held_out = encode(source)
    for name in ("latents", "embeddings"):
        one, other = getattr(small, name), getattr(large, name)
        assert isinstance(one, torch.Tensor) and not isinstance(other, torch.Tensor)
        assert torch.equal(one, all_of(other))
        assert isinstance(getattr(held_out, name), torch.Tensor)
