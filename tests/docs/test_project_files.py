"""Versions agree, and what forges and editors read fits the project."""

import json
import re
from importlib.metadata import version
from itertools import product
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from pages import ROOT

import invcap
import invcap_ext

PROJECT = (ROOT / "pyproject.toml").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_every_place_names_one_version():
    (declared,) = re.findall(r'^version = "(.+)"$', PROJECT, re.MULTILINE)
    assert version("invcap") == invcap.__version__ == invcap_ext.__version__ == declared
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == declared
    versions = re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == declared


def test_the_readme_names_the_papers_that_the_citation_has():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert len(citation["references"]) == 2
    for paper in citation["references"]:
        assert paper["title"] in readme
        for author in paper["authors"]:
            assert f"{author['given-names']} {author['family-names']}" in readme


def test_both_packages_carry_their_types():
    for package in (invcap, invcap_ext):
        assert (Path(package.__file__).parent / "py.typed").is_file()
        assert re.search(rf'^{package.__name__} = \[.*"py.typed"', PROJECT, re.MULTILINE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_is_there(path):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    jobs = yaml.safe_load(path.read_text())["jobs"]
    commands = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    assert set(re.findall(r"\bmake ([a-z-]+)", "\n".join(commands))) <= set(targets)
    for name in re.findall(r"\b(?:tests/\w+|\.ci/\w+)", "\n".join(commands)):
        assert (ROOT / name).exists()


def test_workflows_take_every_version_of_python_and_torch_that_the_project_allows():
    torch = SpecifierSet(re.search(r'"torch([^"]+)"', PROJECT)[1])
    python = SpecifierSet(re.search(r'requires-python = "(.+)"', PROJECT)[1])
    matrices = [
        job["strategy"]["matrix"]
        for path in WORKFLOWS
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        if "strategy" in job
    ]
    assert matrices
    for matrix in matrices:
        every = [f"{major}.{minor}" for major, minor in product((2, 3), range(30))]
        assert matrix["torch"] == [name for name in every if name in torch]
        assert set(matrix["python"]) <= {name for name in every if name in python}


def test_before_a_commit_the_lint_of_make_check_runs():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repo["hooks"]] == ["make lint"]
    assert re.search(r"^check:.*\n\t.*\blint\b", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_reports_ask_how_it_was_built_and_what_the_self_check_says():
    github = ROOT / ".github"
    for path in (github / "ISSUE_TEMPLATE" / "bug.yml", github / "pull_request_template.md"):
        text = path.read_text()
        assert "invcap_ext.build_info()" in text and "invcap_ext.selfcheck" in text
    for path in (github / "ISSUE_TEMPLATE").glob("*.yml"):
        assert {"name", "description", "body"} <= set(yaml.safe_load(path.read_text()))


def test_the_container_makes_what_the_makefile_has():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"].endswith("make quick")


def test_extras_that_pages_name_exist():
    extras = set(re.findall(r"^(\w+) = \[", PROJECT, re.MULTILINE))
    text = "\n".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    named = re.findall(r"(?:\.|invcap)\[(\w+)\]'", text)
    assert named and set(named) <= extras
