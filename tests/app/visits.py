"""A page that is served, and browsers on it; both reach nothing but this machine."""

import re
import shlex
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from forks import run_invcap
from playwright.sync_api import Browser, Locator, Route, expect

PATIENCE = 120_000  # milliseconds: a busy machine may take long
REFUSED = "refused a connection to"
RUN = {
    "Caption": "Caption the picture",
    "Draw": "Draw",
    "Score": "Score the prompts",
    "Invert": "Invert the picture",
    "Layer": "Run the round trip",
}
expect.set_options(timeout=PATIENCE)


@dataclass(frozen=True)
class Site:
    """A page that is served: where, with which captioner, and its log."""

    address: str
    captioner: Path
    log: Path


def run_offline(*arguments: object) -> None:
    """Runs a command of `invcap` that reaches nothing but this machine, and says what it tried."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        inet = self.family in (socket.AF_INET, socket.AF_INET6)
        if inet and not address[0].startswith(("127.", "::1")):
            print(REFUSED, address, file=sys.stderr)
            raise ConnectionRefusedError(address)
        connect(self, address)

    socket.socket.connect = connect_here
    run_invcap(*arguments)


class Visit:
    """One browser window on the page, which refuses and lists what is not on this machine."""

    def __init__(self, browser: Browser, site: Site, width: int = 1280) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900})
        self.context.set_default_timeout(PATIENCE)
        self.refused: list[str] = []
        self.context.route("**/*", self._only_loopback)
        self.page = self.context.new_page()
        self.page.goto(site.address)
        self.page.get_by_role("tab", name="Score").wait_for()

    def _only_loopback(self, route: Route) -> None:
        url = route.request.url
        if url.startswith(("http://127.0.0.1", "data:", "blob:")):
            route.continue_()
        else:
            self.refused.append(url)
            route.abort()

    def close(self) -> None:
        """Closes the window."""
        self.context.close()
        assert self.refused == []

    def open(self, tab: str) -> Locator:
        """Opens a tab, and returns what it shows."""
        self.page.get_by_role("tab", name=tab).click()
        return self.panel

    @property
    def panel(self) -> Locator:
        """What the open tab shows."""
        return self.page.locator("[role=tabpanel]:visible")

    def field(self, label: str) -> Locator:
        return self.panel.get_by_label(label, exact=True).first

    def fill(self, texts: Mapping[str, str]) -> None:
        """Fills fields, by their labels."""
        for label, text in texts.items():
            self.field(label).fill(text)

    def click(self, name: str) -> None:
        self.panel.get_by_role("button", name=name, exact=True).click()

    def choose(self, picture: Path) -> None:
        """Chooses a picture in the open tab."""
        self.panel.locator("input[type=file]").first.set_input_files(picture)
        expect(self.panel.get_by_test_id("image").locator("img").first).to_be_attached()

    def see(self, text: str | re.Pattern[str]) -> None:
        """Waits until the open tab shows a text."""
        expect(self.panel.get_by_text(text).first).to_be_visible()

    def see_image(self, name: str) -> None:
        """Waits until the open tab shows the image of a result."""
        expect(self.panel.get_by_role("img", name=name, exact=True)).to_be_visible()

    def code(self, kind: str) -> str:
        """The command or the Python that a result shows."""
        box = self.panel.locator(f".{kind} .cm-content").first
        if not box.is_visible():
            self.panel.get_by_role("button", name=re.compile("The same")).first.click()
        expect(box).to_contain_text("invcap")
        return box.inner_text()

    def commands(self) -> list[list[str]]:
        """The words of each command that a result shows, but for `invcap`."""
        return [shlex.split(line)[1:] for line in self.code("as-a-command").splitlines()]

    def serious_faults(self) -> list[str]:
        """What axe finds."""
        found = Axe().run(self.page).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        return [f"{v['id']}: {node['html'][:200]}" for v in serious for node in v["nodes"][:3]]
