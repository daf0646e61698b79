"""The page as a person uses it: in a browser that reaches nothing but this machine."""

import json
import re
import shlex
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from forks import run_forked
from playwright.sync_api import Page, expect
from visits import Visit

TABS = ("Caption", "Draw", "Score", "Invert", "Layer")


def choose(page: Page, picture: Path) -> None:
    """Chooses a picture in the open tab."""
    panel(page).locator("input[type=file]").first.set_input_files(picture)
    expect(panel(page).get_by_test_id("image").locator("img").first).to_be_attached()


def panel(page: Page):
    """What the open tab shows."""
    return page.locator("[role=tabpanel]:visible")


def field(page: Page, label: str):
    return panel(page).get_by_label(label, exact=True).first


def click(page: Page, name: str) -> None:
    panel(page).get_by_role("button", name=name, exact=True).click()


def as_command(page: Page) -> list[str]:
    """The words of the command that a result shows."""
    panel(page).get_by_role("button", name=re.compile("The same as a command")).click()
    box = field(page, "As a command")
    expect(box).to_have_value(re.compile("invcap"))
    return shlex.split(box.input_value())[1:]


def run(words: list[str], folder: Path, monkeypatch) -> str:
    """Runs a command that the page showed, in a folder, and returns what it prints."""
    monkeypatch.chdir(folder)
    log, output = folder / "log", folder / "output.txt"
    assert run_forked(*words, log=log, output=output) == 0, log.read_text()
    return output.read_text()


def test_a_picture_is_captioned_and_comes_back(visit, picture, tmp_path, monkeypatch):
    page = visit.tab("Caption")
    choose(page, picture)
    click(page, "Caption the picture")
    expect(panel(page).locator("ol.bars li")).to_have_count(5)
    shown = panel(page).locator("ol.bars li").all_inner_texts()
    assert any("a green <b>circle</b>" in text for text in shown)
    words = as_command(page)
    (tmp_path / picture.name).write_bytes(picture.read_bytes())
    (row,) = json.loads(run([*words, "--json"], tmp_path, monkeypatch))
    expected = [f"{c['text']} {c['score']:.4f}" for c in row["captions"]]
    assert [" ".join(text.split()) for text in shown] == expected


def test_pictures_drawn_are_those_of_the_command(visit, tmp_path, monkeypatch):
    page = visit.tab("Draw")
    field(page, "Sentence").fill("a red 'star', with $HOME")
    field(page, "Seed").fill("3")
    click(page, "Draw")
    images = panel(page).locator("button.thumbnail-item img")
    expect(images).to_have_count(4)
    sources = [image.get_attribute("src") for image in images.all()]
    run(as_command(page), tmp_path, monkeypatch)
    for number, source in enumerate(sources):
        shown = urllib.request.urlopen(source).read()
        assert shown == (tmp_path / "pictures" / f"0000-{number}.png").read_bytes()


def test_prompts_are_scored_as_by_the_command(visit, picture, tmp_path, monkeypatch):
    page = visit.tab("Score")
    choose(page, picture)
    field(page, "Prompts, one a line").fill("a room\na red square, black background\n")
    field(page, "Noise samples").fill("16")
    click(page, "Score the prompts")
    expect(panel(page).get_by_role("img", name="Bounds, best first")).to_be_visible()
    link = panel(page).locator("a[href*='scores.json']").first
    shown = urllib.request.urlopen(link.get_attribute("href")).read().decode()
    (tmp_path / picture.name).write_bytes(picture.read_bytes())
    assert run([*as_command(page), "--json"], tmp_path, monkeypatch) == shown


def start_inversion(page: Page, picture: Path, steps: int) -> None:
    choose(page, picture)
    panel(page).get_by_label("A sentence").check()
    expect(field(page, "Sentence")).to_be_visible()
    expect(field(page, "Steps")).to_have_value("300")
    field(page, "Steps").fill(str(steps))
    click(page, "Invert the picture")


def test_an_inversion_gives_words_files_and_another_drawing(visit, picture, tmp_path, monkeypatch):
    page = visit.tab("Invert")
    start_inversion(page, picture, 2)
    expect(field(page, "In words")).not_to_have_value("")
    links = panel(page).locator("a[href*='embedding.safetensors']")
    shown = urllib.request.urlopen(links.first.get_attribute("href")).read()
    words = as_command(page)
    (tmp_path / picture.name).write_bytes(picture.read_bytes())
    run(words, tmp_path, monkeypatch)
    folder = tmp_path / "inverted" / picture.stem
    assert (folder / "embedding.safetensors").read_bytes() == shown
    result = json.loads((folder / "result.json").read_text())
    assert field(page, "In words").input_value() == result["prompt"]
    click(page, "Draw again with another seed")
    expect(panel(page).get_by_role("img", name="Drawn again from what was found")).to_be_visible()


def test_an_inversion_is_seen_as_it_goes_and_stops_with_the_best_so_far(visit, picture):
    page = visit.tab("Invert")
    start_inversion(page, picture, 5000)
    status = panel(page).get_by_text(re.compile(r"Step \d+ of 5000\..*left"))
    expect(status).to_be_visible()
    expect(panel(page).get_by_role("img", name="The bound, as it rises")).to_be_visible()
    click(page, "Stop, keep the best")
    expect(panel(page).get_by_text(re.compile("stopped after"))).to_be_visible()
    assert panel(page).locator("a[href*='embedding.safetensors']").count()


def test_another_waits_sees_its_place_and_gets_its_turn_when_the_first_leaves(
    browser, site, picture
):
    first, second = Visit(browser, site), Visit(browser, site)
    page = first.tab("Invert")
    start_inversion(page, picture, 5000)
    expect(panel(page).get_by_text(re.compile("Step"))).to_be_visible()
    other = second.tab("Draw")
    field(other, "Sentence").fill("a red star")
    click(other, "Draw")
    expect(panel(other).get_by_text(re.compile("queue: 1/1")).first).to_be_visible()
    page.reload()  # a browser that leaves
    images = panel(other).locator("button.thumbnail-item img")
    expect(images).to_have_count(4)
    page.get_by_role("tab", name="Score").wait_for()
    for visit in (first, second):
        assert visit.refused == []
        visit.context.close()


@pytest.mark.parametrize(
    ("tab", "fill", "button", "message"),
    [
        ("Draw", {"Sentence": " "}, "Draw", "Write a sentence first."),
        ("Draw", {"Sentence": "a", "Seed": "-1"}, "Draw", "The seed must be a whole number"),
        ("Score", {}, "Score the prompts", "Choose a picture first."),
        (
            "Score",
            {"Prompts, one a line": "red " * 100},
            "Score the prompts",
            "a prompt has at most 77 tokens with start and end, got 102",
        ),
        ("Invert", {"Steps": "-3"}, "Invert the picture", "Steps must be a whole number from 0"),
    ],
)
def test_a_users_error_is_a_sentence_at_its_field(visit, tab, fill, button, message):
    page = visit.tab(tab)
    for label, text in fill.items():
        field(page, label).fill(text)
    click(page, button)
    expect(panel(page).get_by_text(message).first).to_be_visible()
    assert "Traceback" not in page.content()


def test_an_upload_that_is_no_picture_is_refused(visit, tmp_path):
    page = visit.tab("Score")
    (tmp_path / "text.png").write_text("not a picture")
    choose(page, tmp_path / "text.png")
    click(page, "Score the prompts")
    expect(panel(page).get_by_text("This is not a picture that can be read.").first).to_be_visible()


def test_a_networks_round_trip_is_shown_layer_by_layer(visit):
    page = visit.tab("Layer")
    field(page, "number input for Training steps").fill("0")
    click(page, "Run the round trip")
    expect(panel(page).get_by_role("img", name="Round trip, layer by layer")).to_be_visible()
    expect(panel(page).get_by_text("condition number").first).to_be_visible()


@pytest.mark.parametrize("tab", TABS)
def test_axe_finds_no_serious_fault(visit, tab):
    visit.tab(tab)
    found = Axe().run(visit.page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in serious] == []


def test_nothing_is_wider_than_a_phone(browser, site):
    phone = Visit(browser, site, width=390)
    for tab in TABS:
        phone.tab(tab)
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    phone.context.close()


def test_files_elsewhere_cannot_be_read(site):
    for path in ("/etc/passwd", Path(__file__), site.captioner / "config.json", site.log):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{site.address}/gradio_api/file={path}")
        assert refused.value.code in (403, 404)
