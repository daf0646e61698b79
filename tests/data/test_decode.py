import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invcap.data import Example, Skipped, decode_images, log_skipped
from invcap.data.images import open_image


def example(path: Path) -> Example:
    return Example(path.name, ("a picture",), path.name, partial(open_image, path))


def drawn(picture: Image.Image) -> Example:
    return Example("drawn", ("a picture",), "drawn", lambda: picture)


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("half_transparent.png", (255, 0, 0), (255, 255, 255)),
        ("palette_transparent.png", (0, 0, 255), (255, 255, 255)),
        ("grey_16_bit.png", (128, 128, 128), (128, 128, 128)),
    ],
)
def test_transparency_becomes_white_and_every_mode_becomes_rgb(
    files: Path, name: str, left: tuple[int, ...], right: tuple[int, ...]
):
    pixels, _, _ = decode_images([example(files / "pictures" / name)], (12, 16))
    assert pixels.dtype == np.uint8
    assert tuple(pixels[0, 6, 2]) == left
    assert tuple(pixels[0, 6, 13]) == right


def test_cmyk_becomes_rgb(files: Path):
    pixels, _, _ = decode_images([example(files / "pictures/cmyk.jpg")], (12, 16))
    red, green, blue = pixels[0, 6, 8].astype(int)
    assert red > 200 and green < 60 and blue < 60


def test_the_orientation_that_a_camera_wrote_is_obeyed(files: Path):
    picture = open_image(files / "pictures/turned.jpg")
    assert picture.size == (12, 16)
    assert picture.getpixel((10, 8))[0] < 60
    assert picture.getpixel((1, 8))[0] > 200


@pytest.mark.parametrize("size", [(8, 8), (6, 24), (40, 10)])
def test_the_aspect_is_kept_by_a_centre_crop(size: tuple[int, int]):
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste("white", (10, 0, 30, 20))
    pixels, _, _ = decode_images([drawn(picture)], size)
    assert pixels.shape == (1, *size, 3)
    row = pixels[0, size[0] // 2, :, 0].astype(int)
    assert np.abs(row - row[::-1]).max() <= 1
    scale = max(size[0] / 20, size[1] / 40)
    expected_white = min(20 * scale, size[1])
    assert abs((row > 127).sum() - expected_white) <= 1


@pytest.mark.parametrize(
    "name", ["cut_off.jpg", "not_a_picture.png", "other_format.pcx", "absent.png"]
)
def test_a_picture_that_cannot_be_decoded_is_skipped_and_the_others_keep_their_order(
    files: Path, name: str
):
    good = [example(files / "metadata_jsonl" / name) for name in ("kite.png", "pond.jpg")]
    broken = example(files / "pictures" / name)
    pixels, kept, skipped = decode_images([good[0], broken, good[1]], (12, 16))
    assert kept == good
    assert [item.name for item in skipped] == [name]
    alone = [decode_images([item], (12, 16))[0][0] for item in good]
    assert np.array_equal(pixels, np.stack(alone))


def test_what_was_skipped_is_one_warning_of_twenty_and_all_at_debug_level(
    caplog: pytest.LogCaptureFixture,
):
    logger = logging.getLogger("invcap.test")
    with caplog.at_level(logging.DEBUG, logger.name):
        log_skipped([Skipped(f"{i}.png", "broken") for i in range(25)], logger)
        log_skipped([], logger)
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    lines = warning.getMessage().splitlines()
    assert lines[0] == "skipped 25:"
    assert (lines[1], lines[20], lines[21]) == (
        "  0.png: broken",
        "  19.png: broken",
        "  and 5 more",
    )
    assert sum(record.levelno == logging.DEBUG for record in caplog.records) == 25
