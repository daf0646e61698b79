"""The site builds without a warning, has every public name, and loads nothing from elsewhere."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mkdocstrings import Inventory
from pages import ROOT

LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\ssrc=[\"']?(?:https?:)?//[^>]*>"
    r"|<link\b(?=[^>]*rel=[\"']?(?:stylesheet|preconnect|preload|icon)\b)[^>]*(?:https?:)?//[^>]*>"
    r"|url\([\"']?(?:https?:)?//[^)]*\)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", output],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return output


def public_names() -> set[str]:
    """What the packages list in `__all__`, by its full name."""
    found = set()
    for folder in ("invcap_ext", "python/invcap"):
        for path in (ROOT / folder).rglob("__init__.py"):
            base = ROOT if folder == "invcap_ext" else ROOT / "python"
            package = ".".join(path.parent.relative_to(base).parts)
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    found |= {f"{package}.{name}" for name in ast.literal_eval(node.value)}
    return {name for name in found if not name.endswith("__")}


def test_the_reference_has_every_public_name(site):
    with (site / "objects.inv").open("rb") as stream:
        documented = Inventory.parse_sphinx(stream)
    assert len(public_names()) > 20
    assert public_names() - set(documented) == set()


def test_pages_load_nothing_from_elsewhere(site):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 30
    found = {path.name: LOADED.findall(path.read_text()) for path in pages}
    assert {name: loaded for name, loaded in found.items() if loaded} == {}


def test_what_is_loaded_from_elsewhere_is_found():
    for text in (
        '<script src="https://cdn.example/x.js"></script>',
        "<link rel=stylesheet href=//fonts.example/css>",
        '<link href="https://fonts.example" rel="preconnect" crossorigin>',
        "@import url(https://fonts.example/css)",
    ):
        assert LOADED.search(text), text
    assert not LOADED.search('<a href="https://example.org">elsewhere</a><img src="here.png">')
