"""The pages of the documentation, and what stands in them."""

import re
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "models" / "README.md"])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}.*\n|^\n(?= {4}))+", re.MULTILINE)


def fenced(page: Path, language: str) -> list[str]:
    """The blocks of a language between fences."""
    return [text for found, text in FENCED.findall(page.read_text()) if found == language]


def code_blocks(page: Path) -> list[str]:
    """All blocks of code: between fences, and indented ones."""
    text = page.read_text()
    between = [block for _, block in FENCED.findall(text)]
    return [*between, *(dedent(block) for block in INDENTED.findall(FENCED.sub("", text)))]


def command_lines() -> list[tuple[str, str]]:
    """(page, command line) of every `invcap ...` in blocks of code and in code spans."""
    found = []
    for page in PAGES:
        text = FENCED.sub("", page.read_text())
        spans = re.findall(r"`(invcap [a-z][^`]*)`", text)
        lines = [line for block in code_blocks(page) for line in block.splitlines()]
        spans += [line for line in lines if line.startswith("invcap ")]
        found += [(str(page.relative_to(ROOT)), span.partition(" #")[0]) for span in spans]
    return found
