import json
from pathlib import Path

import pytest

from invcap.data import load_examples
from invcap.data.annotations import read_annotations
from invcap.data.emoji import write_emoji
from invcap.data.emoji_groups import group_of
from invcap.data.noto import read_noto

ANNOTATIONS = """<?xml version="1.0" encoding="UTF-8" ?>
<!DOCTYPE ldml SYSTEM "../../common/dtd/ldml.dtd">
<ldml><annotations>
<annotation cp="❤">emotion | heart | red heart</annotation>
<annotation cp="❤" type="tts">red heart</annotation>
<annotation cp="👍">+1 | hand | thumb | thumbs up | up</annotation>
</annotations></ldml>
"""
DERIVED = """<ldml><annotations>
<annotation cp="👍🏽">+1 | hand | medium skin tone</annotation>
</annotations></ldml>
"""


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    folder = tmp_path / "common"
    for name, text in (("annotations", ANNOTATIONS), ("annotationsDerived", DERIVED)):
        (folder / name).mkdir(parents=True)
        (folder / name / "en.xml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def no_annotations_of_debian(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("invcap.data.emoji.CLDR", Path("/absent/cldr"))


@pytest.fixture
def font(files: Path) -> Path:
    return files / "emoji/NotoColorEmoji-subset.ttf"


def test_the_folder_is_read_back_with_names_phrasings_and_groups(font: Path, tmp_path: Path):
    summary = write_emoji(tmp_path / "deep" / "emoji", font)
    result = load_examples(str(tmp_path / "deep" / "emoji"))
    assert not result.skipped
    by_caption = {example.captions[0]: example for example in result.examples}
    assert len(by_caption) == summary.pictures == 12
    assert len({example.group for example in result.examples}) == summary.groups == 7
    assert by_caption["red heart"].captions == ("red heart", "heart")
    assert by_caption["Germany"].captions == ("Germany", "flag for Germany")
    assert by_caption["keycap #"].name == "23-fe0f-20e3.png"
    firefighters = ("man firefighter", "woman firefighter", "firefighter dark skin tone")
    assert len({by_caption[name].group for name in firefighters}) == 1
    assert by_caption["thumbs up"].group == by_caption["thumbs up medium skin tone"].group
    assert by_caption["fire engine"].group != by_caption["man firefighter"].group


def test_each_line_of_metadata_has_the_name_as_text(font: Path, tmp_path: Path):
    write_emoji(tmp_path / "emoji", font)
    lines = (tmp_path / "emoji/metadata.jsonl").read_text(encoding="utf-8").splitlines()
    for record in map(json.loads, lines):
        assert record["text"] == record["captions"][0]
        assert (tmp_path / "emoji" / record["file_name"]).is_file()


def test_keywords_are_a_further_caption_after_the_names(
    font: Path, annotations: Path, tmp_path: Path
):
    write_emoji(tmp_path / "emoji", font, annotations)
    captions = {
        example.captions[0]: example.captions[1:]
        for example in load_examples(str(tmp_path / "emoji")).examples
    }
    assert captions["red heart"] == ("heart", "red heart: emotion")
    assert captions["thumbs up"][-1] == "thumbs up: hand, thumb"
    tone = "thumbs up medium skin tone"
    assert captions[tone] == (f"{tone}: hand, medium skin tone",)
    assert captions["Germany"] == ("flag for Germany",)


def test_annotations_are_read_where_debian_puts_them_if_they_are_there(
    font: Path, annotations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("invcap.data.emoji.CLDR", annotations)
    write_emoji(tmp_path / "emoji", font)
    assert "red heart: emotion" in (tmp_path / "emoji/metadata.jsonl").read_text(encoding="utf-8")


def test_a_log_line_names_the_package_of_annotations_that_are_not_there(
    font: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO"):
        write_emoji(tmp_path / "emoji", font)
    assert "apt-get install unicode-cldr-core" in caplog.text


def test_annotations_that_were_asked_for_and_are_missing_are_an_error(font: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"annotations: no file .*unicode-cldr-core"):
        write_emoji(tmp_path / "emoji", font, tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_annotations_of_another_format_are_an_error_that_names_the_file(annotations: Path):
    (annotations / "annotations/en.xml").write_text("not XML")
    with pytest.raises(ValueError, match=r"annotations: expected XML, got .*annotations/en\.xml"):
        read_annotations(annotations)


def test_flags_keycaps_and_joined_sequences_are_one_picture(font: Path):
    draw = read_noto(font)
    flag = draw("🇩🇪")
    middle = flag.width // 2
    black, red, gold = (flag.getpixel((middle, y)) for y in (38, 68, 98))
    assert max(black) < 60
    assert red[0] > 180 and red[1] < 60
    assert gold[0] > 200 and gold[1] > 150 and gold[2] < 80
    tones = [draw(emoji).tobytes() for emoji in ("👍", "👍🏽", "👩‍🚒", "👨‍🚒", "🧑🏿‍🚒", "#️⃣")]
    assert len(set(tones)) == 6


def test_pictures_are_square_on_white(font: Path):
    heart = read_noto(font)("❤️")
    assert (heart.mode, heart.size) == ("RGB", (136, 136))
    assert heart.getpixel((0, 0)) == (255, 255, 255)
    red, green, blue = heart.getpixel((68, 68))
    assert red > 200 and green < 100 and blue < 100


def test_an_emoji_that_the_font_lacks_is_not_drawn(font: Path):
    draw = read_noto(font)
    assert draw("🐈") is None
    assert draw("🇫🇷") is None


def test_a_folder_with_content_is_not_touched(font: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match="output: expected a new or empty folder"):
        write_emoji(tmp_path, font)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(font: Path, tmp_path: Path):
    (tmp_path / "emoji").mkdir()
    assert write_emoji(tmp_path / "emoji", font).pictures == 12


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_nothing(
    font: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
):
    drawn = []

    def fail(emoji: str) -> str:
        drawn.append(emoji)
        if len(drawn) == 5:
            raise error
        return emoji

    monkeypatch.setattr("invcap.data.emoji.group_of", fail)
    with pytest.raises(error):
        write_emoji(tmp_path / "emoji", font)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_font_is_an_error_that_names_the_debian_package(tmp_path: Path):
    with pytest.raises(ValueError, match="fonts-noto-color-emoji"):
        write_emoji(tmp_path / "emoji", tmp_path / "absent.ttf")
    assert list(tmp_path.iterdir()) == []


def test_a_font_of_another_kind_is_an_error_that_says_so(tmp_path: Path, files: Path):
    with pytest.raises(ValueError, match="expected one with CBDT"):
        read_noto(files / "emoji/LICENSE")


@pytest.mark.parametrize(
    "variants",
    [
        "👨 👩 🧑 👩🏽",
        "👮 👮‍♀️ 👮🏿‍♂️",
        "🏃 🏃‍♀️ 🏃🏻‍♂️‍➡️ 🏃‍➡️",
        "👨‍⚕️ 👩🏾‍⚕️ 🧑‍⚕️",
        "🧑‍🤝‍🧑 👫 👭🏼 👬 👩🏻‍🤝‍👨🏿 🧑🏻‍🤝‍🧑🏿",
        "🤝 🤝🏻 🫱🏻‍🫲🏿",
        "💑 💑🏽 👩‍❤️‍👨 🧑🏻‍❤️‍🧑🏿",
        "💏 👨‍❤️‍💋‍👨 🧑🏻‍❤️‍💋‍🧑🏿",
        "👪 👨‍👩‍👧 👩‍👩‍👦‍👦 🧑‍🧒 👨‍👦",
        "🎅 🤶🏽 🧑‍🎄 🧑🏿‍🎄",
        "🤴 👸 🫅",
        "🕵️ 🕵️‍♀️ 🕵🏾‍♂️",
        "☝️ ☝🏿",
    ],
)
def test_skin_tones_and_genders_of_one_emoji_are_one_group(variants: str):
    assert len({group_of(emoji) for emoji in variants.split()}) == 1


def test_different_emoji_are_different_groups():
    emoji = "👨 👦 👴 👨‍🚒 👨‍🦰 👮‍♂️ ♂️ ♀️ ➡️ 🏻 ❤️ 💑 💏 👪 👫 🤝 🇩🇪 🇫🇷 #️⃣ *️⃣ 🏴‍☠️ 🏳️‍🌈 🐈 🐈‍⬛ 🚒"
    assert len({group_of(one) for one in emoji.split()}) == len(emoji.split())
