import json
import logging
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest
import torch
from bulk_runs import BATCHES, FOLDERS, NAMES, SETTINGS, bulk
from PIL import Image

from invcap.captioning import Caption
from invcap.diffusion.model import FrozenTextToImage
from invcap.prompt_inversion import sources


@pytest.mark.slow
def test_a_folder_gives_one_folder_for_each_picture_in_the_order_of_paths(
    pipeline, gallery, tmp_path, inversions
):
    output = tmp_path / "found"
    rows = bulk(pipeline, gallery, output)
    assert inversions == [2, 2, 1]
    assert [row["picture"] for row in rows] == [str(gallery / name) for name in NAMES]
    files = {"embedding.safetensors", "history.json", "bounds.png", "strip.png", "result.json"}
    assert {path.relative_to(output).as_posix() for path in output.rglob("*.*")} == {
        "run.json",
        *(f"{folder}/{file}" for folder in FOLDERS for file in files),
    }
    for row, folder in zip(rows, FOLDERS, strict=True):
        assert json.loads((output / folder / "result.json").read_text()) == row
        assert row["embedding"] == str(output / folder / "embedding.safetensors")
    record = json.loads((output / "run.json").read_text())
    assert record["pictures"] == NAMES
    assert (record["seed"], record["size"], record["inversion"]["steps"]) == (7, [16, 16], 4)
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_a_pictures_seed_is_that_of_its_place_in_the_whole_list(pipeline, gallery, tmp_path):
    rows = bulk(pipeline, gallery, tmp_path / "found")
    alone = bulk(
        pipeline, gallery / NAMES[3], tmp_path / "alone", replace(SETTINGS, seed=SETTINGS.seed + 3)
    )
    assert alone[0]["log_likelihood"] == pytest.approx(rows[3]["log_likelihood"], abs=1e-5)
    other = bulk(pipeline, gallery / NAMES[3], tmp_path / "other")
    assert other[0]["log_likelihood"] != pytest.approx(rows[3]["log_likelihood"], abs=1e-3)


@pytest.mark.slow
def test_a_resumed_run_is_of_the_same_pictures_not_of_others_by_their_names(
    pipeline, gallery, tmp_path
):
    bulk(pipeline, gallery, tmp_path / "found")
    (gallery / NAMES[1]).write_bytes((gallery / NAMES[0]).read_bytes())
    with pytest.raises(ValueError, match=f"{NAMES[1]} is not the image that it was"):
        bulk(pipeline, gallery, tmp_path / "found", resume=True)


def test_files_and_folders_mix_in_the_order_given(pipeline, gallery, tmp_path):
    rows = bulk(pipeline, [gallery / "e.png", gallery / "deep"], tmp_path / "found")
    assert [Path(row["embedding"]).parent for row in rows] == [
        tmp_path / "found" / folder for folder in ("e", "a", "er/a")
    ]


@pytest.mark.slow
def test_a_broken_file_in_a_folder_is_skipped_and_logged(
    pipeline, gallery, tmp_path, caplog, inversions
):
    whole = bulk(pipeline, gallery, tmp_path / "whole")
    (gallery / "a.png").write_text("not a picture")
    (gallery / "d.png").write_bytes((gallery / "e.png").read_bytes()[:-30])
    with caplog.at_level(logging.WARNING):
        rows = bulk(pipeline, gallery, tmp_path / "found")
    assert [row["log_likelihood"] for row in rows] == [row["log_likelihood"] for row in whole]
    assert "skipped 2" in caplog.text
    assert str(gallery / "a.png") in caplog.text and str(gallery / "d.png") in caplog.text
    again = bulk(pipeline, gallery, tmp_path / "found", resume=True)
    assert again == rows and len(inversions) == 2 * BATCHES


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["e.png", "broken.png"], r"broken\.png: expected an image"),
        (["e.png", "nowhere.png"], r"nowhere\.png: expected an image"),
        (["e.png", "empty"], r"empty: expected images in the folder"),
        (["worse"], r"none of 1 can be decoded\n.*worse/one\.png"),
        (["deep", "deep/a.png"], r"deep/a\.png and .*deep/a\.png, both for a$"),
        (["twins"], r"twins/one\.gif and .*twins/one\.png, both for one$"),
        ([""], r"found: must not be in .*gallery"),
    ],
)
def test_what_cannot_be_used_is_an_error_before_anything_is_computed(
    paths, message, pipeline, gallery, pictures, inversions
):
    for folder in ("empty", "worse", "twins"):
        (gallery / folder).mkdir()
    for broken in ("broken.png", "worse/one.png"):
        (gallery / broken).write_text("not a picture")
    for name in ("twins/one.png", "twins/one.gif"):
        pictures[0].save(gallery / name)
    output = gallery / "found"
    with pytest.raises(ValueError, match=message):
        bulk(pipeline, [gallery / path for path in paths], output)
    assert not inversions and not output.exists()


UNUSABLE = {
    "size": ({"size": (15, 16)}, "size must be multiples of 2 pixels, got 15 x 16"),
    "memory": ({"size": (100000, 100000)}, "size must have at most .* pixels, got 100000"),
    "start": ({"start": " "}, "a prompt must have words"),
    "captioner": ({"start": "caption"}, "start 'caption' needs a captioner, got none"),
    "starts": ({"starts": "nowhere"}, "starts: expected a folder of learned starts, got nowhere"),
    "file": ({"start": "meta"}, r"meta\.safetensors: no such file"),
    "over": ({"over": "words"}, "over must be one of .* got 'words'"),
    "learned": ({"start": "meta", "over": "tokens"}, "start must be sentences over 'tokens'"),
    "words": ({"start": "meta", "words": True}, "words need sentences, a proposer, a captioner"),
    "guidance": ({"guidance_scale": nan}, "guidance_scale must be finite and at least 0, got nan"),
    "range": (
        {"inversion": replace(SETTINGS.inversion, timestep_range=(0, 51))},
        "timestep_range must lie within 0 and 50, got 0 to 51",
    ),
}


@pytest.mark.parametrize(("changes", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_settings_that_cannot_be_used_are_an_error_before_a_picture_is_read(
    changes, message, pipeline, gallery, tmp_path, monkeypatch
):
    monkeypatch.setattr(sources, "open_image", lambda path: pytest.fail("read a picture"))
    with pytest.raises(ValueError, match=message):
        bulk(pipeline, gallery, tmp_path / "found", replace(SETTINGS, **changes))
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be from 0 to below .* got -1"),
    ],
)
def test_a_runs_own_settings_are_checked_when_they_are_made(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)


class Captioner:
    """Says of a picture how many it has seen."""

    def __init__(self) -> None:
        self.seen = 0

    def compose(self, images, top_k):
        first = self.seen
        self.seen += len(images)
        said = [" ".join(["red"] * number) for number in range(1 + first, 1 + self.seen)]
        return [[Caption(text, 0.0)] for text in said]


@pytest.mark.slow
def test_captions_are_asked_for_once_a_picture(pipeline, gallery, tmp_path):
    captioner, settings = Captioner(), replace(SETTINGS, start="caption", captioner="one")
    rows = bulk(pipeline, gallery, tmp_path / "found", settings, captioner=captioner)
    assert captioner.seen == len(rows) == len(NAMES)


@pytest.mark.slow
def test_captions_of_unequal_length_need_batches_of_one_over_token_vectors(
    pipeline, gallery, tmp_path
):
    settings = replace(SETTINGS, start="caption", captioner="one", over="token_vectors")
    with pytest.raises(ValueError, match="batch_size must be 1 for captions over 'token_vectors'"):
        bulk(pipeline, gallery, tmp_path / "found", settings, captioner=Captioner())
    assert not (tmp_path / "found").exists()
    settings = replace(settings, batch_size=1)
    rows = bulk(pipeline, gallery, tmp_path / "found", settings, captioner=Captioner())
    assert len(rows) == len(NAMES)


@pytest.mark.slow
def test_a_picture_is_decoded_once_to_be_checked_and_once_to_be_inverted(
    pipeline, gallery, tmp_path, monkeypatch
):
    decoded = []
    open_image = Image.open
    monkeypatch.setattr(
        Image,
        "open",
        lambda *arguments, **options: decoded.append(1) or open_image(*arguments, **options),
    )
    bulk(pipeline, gallery, tmp_path / "found")
    assert len(decoded) == 2 * len(NAMES)


def test_guidance_is_that_of_every_picture_of_the_strip(pipeline, gallery, tmp_path, monkeypatch):
    drawn = []
    generate = FrozenTextToImage.generate

    def watched(self, conditioning, seeds, size=None, guidance_scale=1.0, *more):
        drawn.append((len(seeds), guidance_scale))
        return generate(self, conditioning, seeds, size, guidance_scale, *more)

    monkeypatch.setattr(FrozenTextToImage, "generate", watched)
    settings = replace(SETTINGS, guidance_scale=2.5)
    bulk(pipeline, gallery / "b.png", tmp_path / "found", settings)
    # What is found, then the strip: the start. The snapshot at the end is what is found.
    assert drawn == [(1, 2.5), (1, 2.5)]
