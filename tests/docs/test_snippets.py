"""What the pages tell a reader to run, runs."""

import ast
import importlib
import re
import shlex

import pytest
from pages import DOCS, PAGES, ROOT, code_blocks, command_lines, fenced
from typer.main import get_command

from invcap.cli import app

COMMAND = get_command(app)
RUN = [ROOT / "README.md", *(page for page in PAGES if page.is_relative_to(DOCS))]
SNIPPETS = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
    for page in RUN
    for number, text in enumerate(fenced(page, "python"))
]


@pytest.mark.parametrize("text", SNIPPETS)
def test_a_snippet_runs_as_pasted_in_an_empty_folder(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(text, "snippet", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


def test_the_readme_and_the_first_page_have_a_snippet():
    for page in (ROOT / "README.md", DOCS / "getting-started.md"):
        assert fenced(page, "python"), page


def looks_like_python(block: str) -> bool:
    return bool(re.match(r"(from|import) \w", block.lstrip()))


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, block in enumerate(filter(looks_like_python, code_blocks(page)))
    ],
)
def test_what_python_blocks_import_of_ours_is_there(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("invcap"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def unknown_of(line: str) -> str:
    """What of a command line `invcap ...` does not exist; empty if all does."""
    words = shlex.split(line)[1:]
    command = COMMAND
    while words and hasattr(command, "commands"):
        if words[0] not in command.commands:
            return words[0]
        command = command.commands[words.pop(0)]
    known = {name for option in command.params for name in option.opts}
    given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    return " ".join(name for name in given if name not in known and name != "--help")


@pytest.mark.parametrize(("page", "line"), sorted(set(command_lines())))
def test_a_printed_command_and_its_options_exist(page, line):
    assert unknown_of(line) == "", page


def test_an_unknown_command_and_an_unknown_option_are_found():
    assert unknown_of("invcap trains --data shapes") == "trains"
    assert unknown_of("invcap train --dada shapes --output o") == "--dada"
    assert not unknown_of("invcap data emoji --output o")


def test_make_targets_and_scripts_that_pages_name_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        text = page.read_text()
        named = re.findall(r"(?:^ {4}|`)make ([a-z-]+)", text, re.MULTILINE)
        assert set(named) <= set(targets), page
        scripts = re.findall(r"python ((?:benchmarks|python|tests)/[\w/]+\.py)", text)
        assert [name for name in scripts if not (ROOT / name).is_file()] == [], page
