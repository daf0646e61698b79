"""The page as a person uses it: in a browser that reaches nothing but this machine."""

import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect
from visits import RUN, Visit

from invcap.app.fields import MOST_BYTES
from invcap.cli import main

pytestmark = pytest.mark.slow
PROMPTS = "Prompts, one a line"


@pytest.fixture
def run(monkeypatch, tmp_path, picture, capsys):
    """Runs a command that the page showed, beside the picture, and returns what it prints."""
    (tmp_path / picture.name).write_bytes(picture.read_bytes())
    monkeypatch.chdir(tmp_path)

    def run(words: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", ["invcap", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    return run


def read(link) -> bytes:
    return urllib.request.urlopen(link.get_attribute("href")).read()


def test_a_picture_is_captioned_and_comes_back(visit, picture, run):
    panel = visit.open("Caption")
    assert visit.serious_faults() == []
    visit.choose(picture)
    visit.click(RUN["Caption"])
    expect(panel.locator("ol.bars li")).to_have_count(5)
    visit.see_image("The picture after a round trip through the network")
    shown = panel.locator("ol.bars li").all_inner_texts()
    assert any("a green <b>circle</b>" in text for text in shown)
    (command,) = visit.commands()
    (row,) = json.loads(run([*command, "--json"]))
    expected = [f"{c['text']} {c['score']:.4f}" for c in row["captions"]]
    assert [" ".join(text.split()) for text in shown] == expected
    assert visit.serious_faults() == []


def test_pictures_drawn_are_those_of_the_command_and_can_be_downloaded(visit, run, tmp_path):
    panel = visit.open("Draw")
    visit.fill({"Sentence": "a red 'star', with $HOME", "Seed": "3"})
    visit.click("Draw")
    images = panel.locator("button.thumbnail-item img")
    expect(images).to_have_count(4)
    sources = [image.get_attribute("src") for image in images.all()]
    run(*visit.commands())
    expected = [(tmp_path / "pictures" / f"0000-{n}.png").read_bytes() for n in range(4)]
    assert [urllib.request.urlopen(source).read() for source in sources] == expected
    assert visit.serious_faults() == []
    images.nth(2).click()
    with visit.page.expect_download() as download:
        panel.locator(".drawn").get_by_label("Download").first.click()
    assert download.value.path().read_bytes() == expected[2]


def test_prompts_are_scored_as_by_the_command(visit, picture, run):
    panel = visit.open("Score")
    visit.choose(picture)
    visit.fill({PROMPTS: "a room\na red square, black background\n", "Noise samples": "16"})
    visit.click(RUN["Score"])
    visit.see_image("Bounds, best first")
    shown = read(panel.locator("a[href*='scores.json']").first).decode()
    (command,) = visit.commands()
    assert run([*command, "--json"]) == shown
    assert visit.serious_faults() == []


def start_inversion(visit: Visit, picture: Path, steps: int) -> None:
    panel = visit.open("Invert")
    visit.choose(picture)
    panel.get_by_label("A sentence").check()
    expect(visit.field("Sentence")).to_be_visible()
    expect(visit.field("Steps")).to_have_value("300")
    visit.fill({"Steps": str(steps)})
    visit.click(RUN["Invert"])


def test_an_inversion_gives_words_files_and_another_drawing(visit, picture, run, tmp_path):
    start_inversion(visit, picture, 2)
    words = visit.panel.locator("textarea[disabled]").first
    expect(words).not_to_have_value("")
    shown = read(visit.panel.locator("a[href*='embedding.safetensors']").first)
    run(*visit.commands())
    folder = tmp_path / "inverted" / picture.stem
    assert (folder / "embedding.safetensors").read_bytes() == shown
    result = json.loads((folder / "result.json").read_text())
    assert words.input_value() == result["prompt"]
    visit.click("Draw again with another seed")
    visit.see_image("Drawn again from what was found")
    assert visit.serious_faults() == []


def test_an_inversion_shows_its_progress_and_stops_with_the_best_so_far(visit, picture):
    start_inversion(visit, picture, 5000)
    visit.see(re.compile(r"Step \d+ of 5000\..*left"))
    visit.see_image("The bound, as it rises")
    visit.click("Stop, keep the best")
    visit.see(re.compile("stopped after"))
    assert visit.panel.locator("a[href*='embedding.safetensors']").count()
    assert "stopped" in visit.code("as-python")


def test_a_second_job_waits_sees_its_place_and_runs_when_the_first_is_cancelled(
    browser, site, picture
):
    first, second = Visit(browser, site), Visit(browser, site)
    start_inversion(first, picture, 5000)
    first.see(re.compile("Step"))
    second.open("Draw")
    second.fill({"Sentence": "a red star"})
    second.click("Draw")
    second.see(re.compile("queue: 1/1"))
    first.page.reload()  # a browser that leaves
    expect(second.panel.locator("button.thumbnail-item img")).to_have_count(4)
    first.open("Score")
    first.close()
    second.close()


def test_a_users_errors_are_sentences_at_their_fields(visit):
    for tab, fields, message in (
        ("Draw", {"Sentence": " "}, "Write a sentence first."),
        ("Draw", {"Seed": "-1"}, "The seed must be a whole number from 0 to"),
        ("Score", {}, "Choose a picture first."),
        ("Score", {PROMPTS: "red " * 100}, "a prompt has at most 77 tokens with start and end"),
        ("Invert", {"Steps": "-3"}, "Steps must be a whole number from 0 to 5000, got -3."),
    ):
        visit.open(tab)
        visit.fill(fields)
        visit.click(RUN[tab])
        visit.see(message)
    assert "Traceback" not in visit.page.content()


def test_an_upload_that_is_no_picture_is_refused(visit, tmp_path):
    visit.open("Score")
    (tmp_path / "text.png").write_text("not a picture")
    visit.choose(tmp_path / "text.png")
    visit.click(RUN["Score"])
    visit.see("This is not a picture that can be read.")


def test_an_upload_of_too_many_bytes_is_refused(visit, tmp_path):
    panel = visit.open("Caption")
    (tmp_path / "large.png").write_bytes(bytes(MOST_BYTES + 1))
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "large.png")
    expect(visit.page.get_by_text(re.compile("exceed|too large|limit")).first).to_be_visible()
    assert not panel.get_by_test_id("image").locator("img").count()


def test_a_networks_round_trip_is_shown_layer_by_layer(visit):
    panel = visit.open("Layer")
    panel.get_by_label("number input for Training steps").fill("0")
    visit.click(RUN["Layer"])
    visit.see_image("Round trip, layer by layer")
    visit.see("condition number")
    assert visit.serious_faults() == []


def test_the_keyboard_is_enough(visit):
    def reach(selector: str, text: str) -> None:
        focus = visit.page.locator(f"{selector}:focus").filter(has_text=text)
        for _ in range(60):
            if focus.count():
                return
            visit.page.keyboard.press("Tab")
        raise AssertionError(f"{selector} {text} never has the focus")

    reach("[role=tab]", "Draw")
    visit.page.keyboard.press("Enter")
    reach("textarea", "")
    visit.page.keyboard.type("a blue star")
    reach("button", "Draw")
    visit.page.keyboard.press("Enter")
    expect(visit.panel.locator("button.thumbnail-item img")).to_have_count(4)


def test_nothing_is_wider_than_a_phone(browser, site):
    phone = Visit(browser, site, width=390)
    for tab in RUN:
        phone.open(tab)
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    phone.close()


def test_files_elsewhere_cannot_be_read(site):
    for path in ("/etc/passwd", Path(__file__), site.captioner / "config.json", site.log):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{site.address}/gradio_api/file={path}")
        assert refused.value.code in (403, 404)
