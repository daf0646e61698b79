"""Each format, read from real files in exactly that format."""

import shutil
from pathlib import Path

import pytest

from invcap.data import Examples, load_examples


def captions(result: Examples) -> dict[str, tuple[str, ...]]:
    return {example.name: example.captions for example in result.examples}


def skipped(result: Examples) -> list[str]:
    return [str(item) for item in result.skipped]


def test_metadata_jsonl_gives_texts_lists_of_captions_and_groups(files: Path):
    result = load_examples(str(files / "metadata_jsonl"))
    assert captions(result) == {
        "pond.jpg": ("A round blue pond in the snow.",),
        "more/barn.png": ("A red barn.", "Ein rotes Gebäude – märchenhaft."),
        "kite.png": ("An orange kite.", "A paper kite, seen from below."),
    }
    assert [example.group for example in result.examples] == ["pond.jpg", "farm", "kite.png"]


def test_metadata_jsonl_skips_what_is_wrong_and_says_why(files: Path):
    folder = files / "metadata_jsonl"
    lines = skipped(load_examples(str(folder)))
    assert lines[0] == "metadata.jsonl line 9: expected a file_name, got None"
    assert lines[1].startswith("metadata.jsonl line 10: not JSON:")
    assert lines[2:] == [
        "more/barn.png: caption 2 is empty",
        f"lost.png: no such file in {folder}",
        "unnamed.png: caption 1 is int, expected text",
        "unnamed.png: no caption",
        f"../metadata_csv/moon.png: points outside the folder {folder}",
        f"/etc/hostname: points outside the folder {folder}",
    ]


def test_metadata_csv_reads_quoted_captions_and_joins_rows_of_one_picture(files: Path):
    result = load_examples(str(files / "metadata_csv"))
    assert captions(result) == {
        "moon.png": ('A yellow moon, nearly "full", over the sea',),
        "leaf.jpg": ("One green leaf", "A leaf on white paper"),
    }
    assert [example.group for example in result.examples] == ["sky", "plants"]
    assert skipped(result) == [
        "metadata.csv line 5: more columns than the header has: "
        "a caption with a comma needs quotes",
        "moon.png: caption 2 is empty",
        f"gone.jpg: no such file in {files / 'metadata_csv'}",
    ]


def test_metadata_csv_without_its_columns_is_an_error_that_lists_them(tmp_path: Path):
    (tmp_path / "metadata.csv").write_text("name,words\na.png,A picture\n")
    with pytest.raises(ValueError, match=r"expected the columns file_name and .* got name, words"):
        load_examples(str(tmp_path))


def test_text_files_beside_pictures_hold_one_caption_a_line(files: Path):
    result = load_examples(str(files / "text_beside"))
    assert captions(result) == {
        "cup.jpg": ("A brown cup.", "A cup seen from above."),
        "deep/BALL.PNG": ("A purple ball",),
    }
    assert {item.name for item in result.skipped} == {"silent.png", "blank.png", "mute.txt"}


@pytest.mark.parametrize("spec", ["flickr30k_kaggle", "flickr30k_kaggle/results.csv"])
def test_flickr30k_of_kaggle_keeps_bars_quotes_and_the_row_without_a_separator(
    files: Path, spec: str
):
    result = load_examples(str(files / spec))
    assert captions(result) == {
        "1000000001.jpg": (
            "A red disc lies on a white table .",
            'Somebody wrote " stop | go " beside a red disc .',
            "The disc , red as a tomato , is round .",
            "A round thing .",
        ),
        "1000000002.jpg": ("A green disc .",),
        "2199200615.jpg": ("A blue disc .", "A blue disc without a separator ."),
    }
    assert skipped(result) == [
        "results.csv line 11: expected three columns with | between them, got 'only one column'",
        "1000000001.jpg: caption 4 is empty",
        f"1000000003.jpg: no such file in {files / 'flickr30k_kaggle' / 'flickr30k_images'}",
    ]


def test_flickr30k_of_kaggle_is_found_one_folder_down_as_its_archive_unpacks(
    files: Path, tmp_path: Path
):
    shutil.copytree(files / "flickr30k_kaggle", tmp_path / "flickr30k_images")
    assert len(load_examples(str(tmp_path)).examples) == 3


@pytest.mark.parametrize("spec", ["flickr30k_token", "flickr30k_token/results_20130124.token"])
def test_flickr30k_token_files_are_read(files: Path, spec: str):
    result = load_examples(str(files / spec))
    assert captions(result) == {
        "1000000001.jpg": ("A red disc lies on a white table .", "The disc is round ."),
        "1000000002.jpg": ("A green disc .",),
    }
    assert [item.name for item in result.skipped] == [
        "results_20130124.token line 5",
        "1000000002.jpg",
    ]


def test_coco_captions_are_joined_to_pictures_in_the_folder_beside_annotations(files: Path):
    result = load_examples(str(files / "coco/annotations/captions_val2017.json"))
    assert captions(result) == {
        "000000000009.jpg": ("A red disc",),
        "000000000025.jpg": ("A green disc.", "A disc, green as grass."),
    }
    assert skipped(result) == [
        "annotations[4]: image_id 77 is not in images",
        "annotations[5]: expected an image_id and a caption",
        "000000000030.jpg: no caption",
        f"000000000031.jpg: no such file in {files / 'coco' / 'val2017'}",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "images is missing"),
        ('{"images": [], "annotations": 3}', "annotations is int"),
        ("captions", "got no JSON"),
    ],
)
def test_json_of_another_kind_is_an_error_that_says_what_coco_has(
    tmp_path: Path, content: str, message: str
):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_examples(str(tmp_path / "captions.json"))


@pytest.mark.parametrize(
    "spec",
    ["metadata_jsonl", "metadata_csv", "text_beside", "flickr30k_kaggle", "flickr30k_token"],
)
def test_every_example_opens_as_an_rgb_picture(files: Path, spec: str):
    for example in load_examples(str(files / spec)).examples:
        picture = example.open()
        assert (picture.mode, picture.size) == ("RGB", (16, 12))


def test_pictures_may_lie_elsewhere(files: Path, tmp_path: Path):
    shutil.copy(files / "flickr30k_kaggle/results.csv", tmp_path)
    with pytest.raises(ValueError, match=r"none of the 4 pictures .* say where .* pictures="):
        load_examples(str(tmp_path))
    pictures = files / "flickr30k_kaggle/flickr30k_images"
    assert len(load_examples(str(tmp_path), pictures=pictures).examples) == 3


def test_no_name_leads_out_of_the_folder_or_to_an_exception(files: Path, tmp_path: Path):
    (tmp_path / "out.jpg").symlink_to(files / "metadata_csv/leaf.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    shutil.copy(files / "metadata_csv/moon.png", tmp_path)
    (tmp_path / "in.png").symlink_to("moon.png")
    names = ("out.jpg", "loop.jpg", "in.png", "nul\\u0000.jpg", "x" * 300 + ".jpg", ".", "")
    lines = [f'{{"file_name": "{name}", "text": "A picture."}}' for name in names]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    result = load_examples(str(tmp_path))
    assert captions(result) == {"in.png": ("A picture.",)}
    assert result.examples[0].group == "moon.png"
    assert len(result.skipped) == len(names) - 1


def test_captions_that_are_not_valid_unicode_become_valid(files: Path, tmp_path: Path):
    shutil.copy(files / "metadata_csv/moon.png", tmp_path)
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "moon.png", "text": "half \\ud83d moon"}'
    )
    assert captions(load_examples(str(tmp_path))) == {"moon.png": ("half ? moon",)}


def test_metadata_comes_before_results_csv_and_that_before_text_files(files: Path, tmp_path: Path):
    shutil.copytree(files / "text_beside", tmp_path, dirs_exist_ok=True)
    assert len(load_examples(str(tmp_path)).examples) == 2
    (tmp_path / "results.csv").write_text("image_name| comment_number| comment\ncup.jpg| 0| K\n")
    assert captions(load_examples(str(tmp_path))) == {"cup.jpg": ("K",)}
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "cup.jpg", "text": "M"}\n')
    assert captions(load_examples(str(tmp_path))) == {"cup.jpg": ("M",)}


def test_two_token_files_in_one_folder_are_an_error_that_names_both(files: Path, tmp_path: Path):
    for name in ("a.token", "b.token"):
        shutil.copy(files / "flickr30k_token/results_20130124.token", tmp_path / name)
    with pytest.raises(ValueError, match=r"expected one \*\.token, got a\.token, b\.token"):
        load_examples(str(tmp_path))


@pytest.mark.parametrize("spec", ["pictures", "pictures/turned.jpg", "nowhere"])
def test_an_unknown_format_gives_a_list_of_the_known_ones(files: Path, spec: str):
    with pytest.raises(ValueError) as error:
        load_examples(str(files / spec))
    for source in ("shapes", "metadata.jsonl", "*.token", "COCO", "text file beside", "hf:NAME"):
        assert source in str(error.value)


def test_nothing_left_is_an_error_that_names_the_source_and_the_reasons(tmp_path: Path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "A"}\n')
    with pytest.raises(ValueError, match=rf"{tmp_path}: nothing is left of it\n  a.png: no such"):
        load_examples(str(tmp_path))


def test_an_option_of_another_source_is_an_error_that_names_it(files: Path):
    with pytest.raises(ValueError, match=r"wordings: not an option of .*; expected pictures"):
        load_examples(str(files / "metadata_csv"), wordings=2)
    assert load_examples(str(files / "metadata_csv"), wordings=None).examples
