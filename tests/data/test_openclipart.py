import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from invcap.data import load_examples, split_by_group
from invcap.data.openclipart import OPENCLIPART, read_drawing, write_openclipart

SVG = """<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg"><metadata>
<rdf:RDF xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work rdf:about="">
<dc:title>{title}</dc:title><dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject>
<dc:creator><cc:Agent><dc:title>{creator}</dc:title></cc:Agent></dc:creator>
</cc:Work></rdf:RDF></metadata></svg>"""


def add(
    source: Path,
    path: str,
    title: str,
    keywords: str = "",
    seed: int = 0,
    size: tuple[int, int] = (60, 40),
    creator: str = "",
) -> None:
    """Adds a drawing of three ellipses, on nothing, whose places and colours a seed draws."""
    png, svg = source / f"png/{path}.png", source / f"svg/{path}.svg"
    for file in (png, svg):
        file.parent.mkdir(parents=True, exist_ok=True)
    items = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords.split())
    svg.write_text(SVG.format(title=title, keywords=items, creator=creator))
    picture = Image.new("RGBA", size)
    numbers = np.random.default_rng(seed)
    for _ in range(3):
        left, top = numbers.uniform(0, 0.5, 2) * size
        width, height = numbers.uniform(0.2, 0.5, 2) * size
        ImageDraw.Draw(picture).ellipse(
            (left, top, left + width, top + height), tuple(numbers.integers(0, 200, 3))
        )
    picture.save(png)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "openclipart"
    add(folder, "food/fruit/pear_ann_01", "Pear", "hash fruit food pear", 1, creator="Ann")
    add(folder, "food/fruit/pear_ann_02", "Pear 2", "fruit", 2)
    add(folder, "food/green_thing", "Nashi", "fruit", 1)
    add(folder, "computer/icons/lemon-theme/actions/edit_copy", "Lemon SVG theme", "theme hash", 3)
    add(folder, "animals/fish/tuna", "Tuna", "a b c d e f g h", 4, (3000, 1000))
    return folder


def test_the_folder_is_read_back_with_captions_and_groups(source: Path, tmp_path: Path):
    summary = write_openclipart(tmp_path / "deep" / "out", source)
    result = load_examples(str(tmp_path / "deep" / "out"))
    assert not result.skipped
    assert summary.pictures == len(result.examples) == 5
    by_name = {Path(example.name).stem: example for example in result.examples}
    assert by_name["pear_ann_01"].captions == ("Pear", "Pear: fruit, food")
    assert by_name["edit_copy"].captions == ("edit copy, action icon",)
    assert by_name["tuna"].captions == ("Tuna", "Tuna: a, b, c, d, e, f")
    assert summary.groups == len({example.group for example in result.examples}) == 3
    assert summary.largest_group == 3 and summary.replaced_titles == 1


def test_series_and_near_duplicates_are_never_on_both_sides_of_a_split(
    source: Path, tmp_path: Path
):
    write_openclipart(tmp_path / "out", source)
    examples = load_examples(str(tmp_path / "out")).examples
    pears = {"pear_ann_01", "pear_ann_02", "green_thing"}  # the last looks like the first
    for seed in range(20):
        try:
            sides = split_by_group(examples, 0.5, seed)
        except ValueError:
            continue
        held = {Path(examples[i].name).stem for i in sides[1]}
        assert held & pears in (set(), pears)


def test_pictures_are_square_on_white_without_margins_and_small(source: Path, tmp_path: Path):
    write_openclipart(tmp_path / "out", source)
    for file in (tmp_path / "out").rglob("*.png"):
        picture = Image.open(file)
        assert picture.mode == "RGB" and picture.width == picture.height <= 256
        pixels = np.asarray(picture)
        assert (pixels[:8] == 255).all() and (pixels[:, -8:] == 255).all()
    wide = np.asarray(Image.open(tmp_path / "out/animals/fish/tuna.png"))
    columns = (wide < 250).any((0, 2)).nonzero()[0]
    assert wide.shape == (256, 256, 3)
    assert (columns[0], columns[-1]) == (8, 247)


def test_each_line_of_metadata_has_the_title_as_text(source: Path, tmp_path: Path):
    write_openclipart(tmp_path / "out", source)
    lines = (tmp_path / "out/metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5
    for record in map(json.loads, lines):
        assert record["text"] == record["captions"][0]
        assert (tmp_path / "out" / record["file_name"]).is_file()


def test_a_drawing_that_shows_nothing_or_is_broken_is_left_out_and_named(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    add(source, "special/blank", "Blank")
    Image.new("RGBA", (30, 30), (255, 255, 255, 90)).save(source / "png/special/blank.png")
    add(source, "special/broken", "Broken")
    (source / "png/special/broken.png").write_bytes(b"PNG")
    assert write_openclipart(tmp_path / "out", source).pictures == 5
    assert "special/blank.png: shows nothing on white" in caplog.text
    assert "special/broken.png: " in caplog.text


def test_a_drawing_without_metadata_is_called_by_its_file_and_folder(source: Path, tmp_path: Path):
    (source / "svg/animals/fish/tuna.svg").write_text("<svg>")
    (source / "svg/food/green_thing.svg").unlink()
    write_openclipart(tmp_path / "out", source)
    captions = {
        Path(one.name).stem: one.captions for one in load_examples(str(tmp_path / "out")).examples
    }
    assert captions["tuna"] == ("tuna, fish",)
    assert captions["green_thing"] == ("green thing, food",)


@pytest.mark.slow
def test_a_huge_drawing_is_scaled_without_losing_what_it_shows(tmp_path: Path):
    picture = Image.new("RGBA", (9000, 9000))
    ImageDraw.Draw(picture).rectangle((2000, 2000, 8000, 5000), (200, 0, 0))
    picture.save(tmp_path / "huge.png")
    shown = np.asarray(read_drawing(tmp_path / "huge.png"))
    assert shown.shape[1:] == (240, 3) and abs(shown.shape[0] - 120) <= 2
    assert (np.abs(shown[5:-5, 5:-5].astype(int) - (200, 0, 0)) < 3).all()


@pytest.mark.parametrize("lacking", [["png"], ["svg"], ["png", "svg"]])
def test_a_missing_package_is_an_error_with_the_command_that_installs_it(
    source: Path, tmp_path: Path, lacking: list[str]
):
    for kind in lacking:
        (source / kind).rename(tmp_path / f"moved-{kind}")
    names = " ".join(f"openclipart-{kind}" for kind in lacking)
    with pytest.raises(ValueError, match=rf"source: .*\(apt-get install {names}\)"):
        write_openclipart(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def test_the_default_is_where_debian_puts_it():
    assert Path("/usr/share/openclipart") == OPENCLIPART


def test_a_folder_without_drawings_is_an_error_and_leaves_nothing(tmp_path: Path):
    for kind in ("png", "svg"):
        (tmp_path / "empty" / kind).mkdir(parents=True)
    with pytest.raises(ValueError, match="source: expected drawings"):
        write_openclipart(tmp_path / "out", tmp_path / "empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_folder_with_content_is_not_touched(source: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/note.txt").write_text("keep me")
    with pytest.raises(ValueError, match="output: expected a new or empty folder"):
        write_openclipart(tmp_path / "mine", source)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["note.txt"]


def test_an_interrupted_run_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("invcap.data.openclipart.near_duplicates", fail)
    with pytest.raises(KeyboardInterrupt):
        write_openclipart(tmp_path / "out", source)
    assert [path.name for path in tmp_path.iterdir()] == ["openclipart"]
