"""Browsers on the page that reach nothing else."""

from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, Route, expect

PATIENCE = 120_000  # milliseconds: a busy machine may take long
expect.set_options(timeout=PATIENCE)


@dataclass(frozen=True)
class Site:
    """A page that is served: where, with which captioner, and its log."""

    address: str
    captioner: Path
    log: Path


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

    def tab(self, name: str) -> Page:
        """Opens a tab, as a person does."""
        self.page.get_by_role("tab", name=name).click()
        return self.page
