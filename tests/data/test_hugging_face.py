"""What Hugging Face `datasets` loads, from folders made here; nothing is downloaded."""

import io
from pathlib import Path

import datasets
import pytest
from PIL import Image

from invcap.data import load_examples


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def png(color: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 12), color).save(stream, "PNG")
    return stream.getvalue()


def pictures(*colors: str) -> list[dict]:
    return [{"bytes": png(color), "path": None} for color in colors]


def dataset(image: str = "image", **columns: list) -> datasets.Dataset:
    count = len(next(iter(columns.values())))
    data = {image: pictures(*("red", "lime", "blue")[:count]), **columns}
    return datasets.Dataset.from_dict(data).cast_column(image, datasets.Image())


def captions(spec: str, **options) -> list[tuple[str, ...]]:
    return [example.captions for example in load_examples(spec, **options).examples]


def test_a_data_set_saved_to_disk_gives_names_captions_and_pictures(tmp_path: Path):
    dataset(text=["A red page.", "A green page."]).save_to_disk(tmp_path / "pages")
    result = load_examples(f"hf:{tmp_path / 'pages'}")
    assert [(example.name, example.captions) for example in result.examples] == [
        ("pages#0", ("A red page.",)),
        ("pages#1", ("A green page.",)),
    ]
    opened = [example.open() for example in result.examples]
    assert [picture.getpixel((5, 5)) for picture in opened] == [(255, 0, 0), (0, 255, 0)]


def test_a_folder_of_parquet_files_and_one_such_file_are_read(tmp_path: Path):
    folder = tmp_path / "pages"
    folder.mkdir()
    dataset(caption=["Red.", "Green."]).to_parquet(folder / "train.parquet")
    assert captions(f"hf:{folder}") == [("Red.",), ("Green.",)]
    assert captions(f"hf:{folder / 'train.parquet'}") == [("Red.",), ("Green.",)]
    assert captions(f"hf:{folder}:train[1:]") == [("Green.",)]


def test_an_image_folder_is_read_and_its_pictures_opened(tmp_path: Path):
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "a.png").write_bytes(png("red"))
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "A red page."}\n')
    (example,) = load_examples(f"hf:{folder}").examples
    assert example.open().getpixel((0, 0)) == (255, 0, 0)


def test_a_split_is_chosen_by_name_and_train_is_the_default(tmp_path: Path):
    splits = {"test": dataset(text=["T"]), "train": dataset(text=["R"])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "pages")
    assert captions(f"hf:{tmp_path / 'pages'}:test") == [("T",)]
    assert captions(f"hf:{tmp_path / 'pages'}") == [("R",)]
    splits["test"].save_to_disk(tmp_path / "page")
    with pytest.raises(ValueError, match="saved without splits, got the split test"):
        load_examples(f"hf:{tmp_path / 'page'}:test")
    with pytest.raises(ValueError, match=r"splits \(test, train\), as in .*:test, got val"):
        load_examples(f"hf:{tmp_path / 'pages'}:val")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"caption": [["One.", "Two."]], "title": ["No."]}, ("One.", "Two.")),
        ({"caption_0": ["One."], "caption_1": ["Two."], "text": ["No."]}, ("One.", "Two.")),
        ({"sentences_raw": [["One.", " ", "Two."]], "filename": ["n.jpg"]}, ("One.", "Two.")),
        ({"Text": ["One."], "label": [3]}, ("One.",)),
        ({"words": ["One."], "label": [3]}, ("One.",)),
    ],
)
def test_caption_columns_are_found_by_name_or_as_the_only_text(tmp_path: Path, columns, expected):
    dataset(**columns).save_to_disk(tmp_path / "pages")
    assert captions(f"hf:{tmp_path / 'pages'}") == [expected]


def test_columns_may_be_named(tmp_path: Path):
    table = dataset("front", front_words=["F"], back_words=["B"])
    table.add_column("back", pictures("blue")).cast_column("back", datasets.Image()).save_to_disk(
        tmp_path / "pages"
    )
    spec = f"hf:{tmp_path / 'pages'}"
    with pytest.raises(ValueError, match=r"one column of pictures .*picture_column=.* back \(I"):
        load_examples(spec)
    with pytest.raises(ValueError, match=r"caption_columns=.* front_words \(Value"):
        load_examples(spec, picture_column="back")
    with pytest.raises(ValueError, match="expected a column words, got"):
        load_examples(spec, picture_column="back", caption_columns=["words"])
    (example,) = load_examples(spec, picture_column="back", caption_columns=["back_words"]).examples
    assert example.captions == ("B",)
    assert example.open().getpixel((0, 0)) == (0, 0, 255)


def test_pictures_are_found_as_plain_bytes(tmp_path: Path):
    table = datasets.Dataset.from_dict({"jpg": [png("red")], "txt": ["A red page."]})
    table.save_to_disk(tmp_path / "pages")
    (example,) = load_examples(f"hf:{tmp_path / 'pages'}").examples
    assert example.open().getpixel((0, 0)) == (255, 0, 0)


def test_groups_come_from_a_column(tmp_path: Path):
    dataset(text=["A", "B", "C"], image_id=[1, 1, 2], group=["x", "y", "y"]).save_to_disk(
        tmp_path / "pages"
    )
    spec = f"hf:{tmp_path / 'pages'}"
    assert [e.group for e in load_examples(spec).examples] == ["x", "y", "y"]
    grouped = load_examples(spec, group_column="image_id").examples
    assert [e.group for e in grouped] == ["1", "1", "2"]


def test_missing_captions_are_skipped_and_missing_or_broken_pictures_do_not_open(tmp_path: Path):
    data = {
        "image": [*pictures("red"), {"bytes": b"no picture", "path": None}, None],
        "text": [None, "Broken.", "Missing."],
    }
    table = datasets.Dataset.from_dict(data).cast_column("image", datasets.Image())
    table.save_to_disk(tmp_path / "pages")
    result = load_examples(f"hf:{tmp_path / 'pages'}")
    assert [str(item) for item in result.skipped] == ["pages#0: no caption"]
    for example in result.examples:
        with pytest.raises(OSError):
            example.open()


def test_a_picture_that_lies_outside_the_data_set_does_not_open(files: Path, tmp_path: Path):
    outside = str(files / "metadata_csv/moon.png")
    table = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": outside}], "text": ["M"]})
    (tmp_path / "pages").mkdir()
    table.to_parquet(tmp_path / "pages/train.parquet")
    (example,) = load_examples(f"hf:{tmp_path / 'pages'}").examples
    with pytest.raises(OSError, match="points outside the data set"):
        example.open()


def test_a_link_out_of_the_data_set_does_not_open(files: Path, tmp_path: Path):
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "inside.png").write_bytes(png("red"))
    (folder / "link.png").symlink_to(files / "metadata_csv/moon.png")
    named = [{"bytes": None, "path": str(folder / name)} for name in ("inside.png", "link.png")]
    table = datasets.Dataset.from_dict({"image": named, "text": ["I", "L"]})
    table.to_parquet(tmp_path / "pages/train.parquet")
    inside, link = load_examples(f"hf:{folder / 'train.parquet'}").examples
    with pytest.raises(OSError, match="points outside"):
        link.open()
    assert inside.open().getpixel((0, 0)) == (255, 0, 0)


def test_what_datasets_cannot_load_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"hf:.*empty: datasets cannot load it"):
        load_examples(f"hf:{tmp_path / 'empty'}")


@pytest.mark.parametrize("name", ["", "imagefolder", "pandas", ":train"])
def test_a_bare_name_never_reads_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png("red"))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "A red page."}\n')
    with pytest.raises(ValueError, match="expected OWNER/NAME or a path"):
        load_examples(f"hf:{name}")


def test_a_folder_with_the_name_of_a_loader_is_that_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json").mkdir()
    dataset(caption=["Red.", "Green."]).to_parquet(tmp_path / "json/train.parquet")
    assert captions("hf:json") == [("Red.",), ("Green.",)]
