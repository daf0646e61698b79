"""Links inside the repository resolve, and pictures and the repository stay small."""

import re
import subprocess
from pathlib import Path

import pytest
from pages import PAGES, ROOT

MOST_PICTURE = 300_000  # bytes
MOST_REPOSITORY = 60 * 2**10  # KiB
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
CODE = re.compile(r"^```.*?^```$|^ {4}.*$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    return done.stdout


def links(text: str) -> list[str]:
    """What a page links to in the repository: no addresses elsewhere."""
    found = [one or other for one, other in LINK.findall(CODE.sub("", text))]
    return [link for link in found if not re.match(r"\w+:", link)]


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", name.lower()).strip().replace(" ", "-") for name in headings}


def broken(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if not target.exists():
        return True
    return bool(anchor) and anchor not in anchors(target.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_repository_resolves(page):
    assert [link for link in links(page.read_text()) if broken(page, link)] == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One name\n[a](gone.md) [b](#one-name) [c](#other) `[d](code.md)` [e](page.md)"
    )
    assert [link for link in links(page.read_text()) if broken(page, link)] == ["gone.md", "#other"]


def test_the_readme_fits_a_few_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_no_picture_is_large():
    names = git("ls-files", "*.png", "*.jpg", "*.svg").split()
    sizes = {name: (ROOT / name).stat().st_size for name in names if (ROOT / name).exists()}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > MOST_PICTURE} == {}


def test_the_repository_is_small():
    objects = git("rev-list", "--disk-usage", "--objects", "HEAD")
    assert int(objects) <= MOST_REPOSITORY * 2**10
