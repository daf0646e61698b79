"""Images encoded in shards: which are kept, what is skipped, and from which sources."""

import io
import logging
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from invcap.data import load_examples
from invcap.data.encode import EncodedImages, encode_images, training_pixels
from invcap.data.example import Examples
from invcap.data.settings import DataSettings

SIZE = (8, 8)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def encode(accelerator, tmp_path):
    """Encodes an image as its mean colour."""

    def run(source: Examples, **settings) -> EncodedImages:
        return encode_images(
            source,
            DataSettings("folder", size=SIZE, **settings),
            lambda pixels: pixels.mean((1, 2)) / 255,
            3,
            "mean",
            tmp_path / "cache",
            accelerator,
        )

    return run


def png(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (12, 10), colour).save(stream, "PNG")
    return stream.getvalue()


def colour(number: int) -> tuple[int, int, int]:
    return number, 2 * number, 3 * number


def folder_of(root: Path, count: int, broken: tuple[int, ...] = ()) -> Path:
    root.mkdir()
    for number in range(count):
        content = b"nothing" if number in broken else png(colour(number))
        (root / f"{number:03}.png").write_bytes(content)
        (root / f"{number:03}.txt").write_text(f"number {number}")
    return root


def tar_of(path: Path, numbers: range) -> None:
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            for suffix, content in (("png", png(colour(number))), ("txt", b"number %d" % number)):
                entry = tarfile.TarInfo(f"{number:03}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def check(images: EncodedImages, kept: list[int]) -> None:
    assert images.captions == [[f"number {number}"] for number in kept]
    expected = torch.tensor([colour(number) for number in kept]) / 255
    rows = images.rows()
    torch.testing.assert_close(rows[torch.arange(len(rows))], expected)
    assert images.held_out.any() and not images.held_out.all()
    assert list(images.pngs()) == np.flatnonzero(images.held_out).tolist()


def test_broken_images_are_skipped_and_logged_by_name(encode, tmp_path, caplog):
    source = load_examples(str(folder_of(tmp_path / "images", 40, broken=(3, 17))))
    with caplog.at_level(logging.WARNING):
        images = encode(source, held_out=0.3)
    check(images, [number for number in range(40) if number not in (3, 17)])
    assert "skipped 2" in caplog.text and "003.png" in caplog.text and "017.png" in caplog.text


def test_nothing_decoded_is_an_error_that_names_the_source_and_the_reason(encode, tmp_path):
    source = load_examples(str(folder_of(tmp_path / "images", 3, broken=(0, 1, 2))))
    message = r"folder: expected images, but none of 3 can be decoded\n  000.png: .*cannot decode"
    with pytest.raises(ValueError, match=message):
        encode(source, held_out=0.3)


def test_an_image_or_caption_that_changed_is_encoded_again(encode, tmp_path):
    folder = folder_of(tmp_path / "images", 40)
    first = encode(load_examples(str(folder)), held_out=0.3)
    assert encode(load_examples(str(folder)), held_out=0.3).identity == first.identity
    (folder / "005.png").write_bytes(png((255, 255, 255)))
    changed = encode(load_examples(str(folder)), held_out=0.3)
    assert torch.equal(changed.rows()[torch.tensor([5])], torch.ones(1, 3))
    (folder / "005.txt").write_text("white")
    assert encode(load_examples(str(folder)), held_out=0.3).captions[5] == ["white"]


def test_tar_shards_are_read_as_a_stream(encode, tmp_path):
    tar_of(tmp_path / "0.tar", range(25))
    tar_of(tmp_path / "1.tar", range(25, 40))
    source = load_examples(str(tmp_path / "*.tar"))
    images = encode(source, held_out=0.3)
    check(images, list(range(40)))
    with pytest.raises(ValueError, match="no such file"):
        load_examples(str(tmp_path / "none-*.tar"))


def test_a_streamed_data_set_gives_what_it_gives_when_loaded(encode, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    rows = {
        "image": [{"bytes": png(colour(number)), "path": None} for number in range(40)],
        "text": [f"number {number}" for number in range(40)],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "numbers.parquet")
    streamed, loaded = (
        encode(
            load_examples(f"hf:{tmp_path / 'numbers.parquet'}", streaming=streaming), held_out=0.3
        )
        for streaming in (True, False)
    )
    for images in (streamed, loaded):
        check(images, list(range(40)))
    assert np.array_equal(streamed.held_out, loaded.held_out)


def test_training_pixels_are_of_training_images_alone(encode, accelerator, tmp_path):
    source = load_examples(str(folder_of(tmp_path / "images", 40)))
    settings = DataSettings("folder", size=SIZE, held_out=0.3)
    held_out = encode(source, held_out=0.3).held_out
    wanted = {colour(number) for number in np.flatnonzero(~held_out).tolist()}
    for most in (100, 10):
        pixels = training_pixels(source, settings, most, tmp_path, accelerator)
        rows = pixels[torch.arange(len(pixels))].view(-1, *SIZE, 3)
        found = [tuple(row[0, 0].tolist()) for row in rows]
        assert rows.dtype == torch.uint8 and set(found) <= wanted
        assert len(found) == len(wanted) if most == 100 else 5 <= len(found) <= 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (100_000, 100_000)}, "size must be from 1x1 to 67,108,864 pixels in all, got"),
        ({"size": (0, 16)}, r"size must be .* got 0x16"),
        ({"held_out": 1.5}, "held_out: expected a share between 0 and 1, got 1.5"),
        ({"held_out": float("nan")}, "held_out: expected a share between 0 and 1, got nan"),
        ({"augment": -1}, "augment must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_named_before_data_is_read(settings, message):
    with pytest.raises(ValueError, match=message):
        DataSettings(**settings)
