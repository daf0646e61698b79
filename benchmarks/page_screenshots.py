"""Screenshots of the page's tabs, each with a result, by Debian's Chromium.

invcap app --captioner runs/demo
python benchmarks/page_screenshots.py --output docs/app
"""

import argparse
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from invcap.data.shapes import Scene, draw

SCENE = Scene("large", "red", "square", "in the center", "black")
PATIENCE = 900_000  # milliseconds
SETTLE = 1000
RUN = {
    "Caption": "Caption the picture",
    "Draw": "Draw",
    "Score": "Score the prompts",
    "Invert": "Invert the picture",
    "Layer": "Run the round trip",
}


def shoot(page: Page, tab: str, picture: Path, output: Path) -> None:
    """Runs the job of a tab, and writes a screenshot of the result."""
    page.get_by_role("tab", name=tab).click()
    panel = page.locator("[role=tabpanel]:visible")
    if tab == "Draw":
        panel.get_by_label("Sentence", exact=True).fill(SCENE.caption())
    elif tab != "Layer":
        panel.locator("input[type=file]").first.set_input_files(picture)
        expect(panel.get_by_test_id("image").locator("img").first).to_be_attached()
    if tab == "Invert":
        panel.get_by_label("A sentence").check()
        expect(panel.get_by_label("Steps", exact=True)).to_have_value("300")
        panel.get_by_label("Steps", exact=True).fill("60")
    panel.get_by_role("button", name=RUN[tab], exact=True).click()
    code = panel.get_by_role("button", name="The same, to run elsewhere").first
    code.click()
    expect(panel.locator(".as-python .cm-content").first).to_contain_text("import")
    if tab != "Caption":
        code.click()
    page.mouse.move(0, 0)
    page.wait_for_timeout(SETTLE)
    page.screenshot(path=output / f"{tab.lower()}.png", full_page=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="http://127.0.0.1:7860")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--width", type=int, default=1280, help="pixels; 390 is a phone's")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=PATIENCE)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        picture = Path(folder) / "red square.png"
        draw(SCENE, 128).save(picture)
        browser = playwright.chromium.launch(
            executable_path=options.chromium, args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": options.width, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.goto(options.address)
        for tab in RUN:
            shoot(page, tab, picture, options.output)
        browser.close()


if __name__ == "__main__":
    main()
