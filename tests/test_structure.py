"""Imports point down, in no circle, and files are short: what keeps the code easy to read."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 400
CODE = {".py", ".pyi", ".h", ".cpp", ".cu", ".cuh", ".html", ".css", ".js"}
# Folders and modules of invcap, lowest floor first. None imports from its own floor or above.
FLOORS = (
    {"checks", "files", "hashing", "phrases"},
    {"figures", "data"},
    {"training"},
    {"encoders"},
    {"diffusion"},
    {"captioning", "prompt_inversion", "tiny_sd"},
    {"app"},
    {"cli"},
)
HEIGHT = {part: height for height, floor in enumerate(FLOORS) for part in floor}


def name_of(path: Path, base: Path) -> str:
    """The module's name: of a package's `__init__.py`, that of the package."""
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    """All modules: of python/ and invcap_ext as they are imported, scripts of benchmarks/ too."""
    bases = {"python": ROOT / "python", "invcap_ext": ROOT, "benchmarks": ROOT}
    return {
        name_of(path, base): path
        for folder, base in bases.items()
        for path in sorted((ROOT / folder).rglob("*.py*"))
        if path.suffix in (".py", ".pyi")
    }


def imported(source: str, name: str, is_package: bool) -> Iterator[str]:
    """What a module names in its imports, wherever they stand: `a.b` and, of it, `a.b.c`."""
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def resolved(target: str, name: str, known: set[str]) -> set[str]:
    """The known modules that an import of `target` by `name` runs.

    They are the module, or the one that it is a name of, and the packages around it which are not
    also around `name` (those are running already). A benchmark finds others by their own name.
    """
    parts = target.split(".")
    if name.startswith("benchmarks.") and f"benchmarks.{parts[0]}" in known:
        parts.insert(0, "benchmarks")
    around = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    found = [module for module in around if module in known]
    return {
        module for module in found if module == found[0] or not f"{name}.".startswith(f"{module}.")
    }


def graph(sources: dict[str, str], packages: set[str]) -> dict[str, set[str]]:
    """What each module imports among `sources`, {name: text}."""
    return {
        name: {
            module
            for target in imported(text, name, name in packages)
            for module in resolved(target, name, set(sources))
        }
        for name, text in sources.items()
    }


def circle(imports: dict[str, set[str]]) -> list[str]:
    """One circle of modules; empty where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def points_down(importer: str, target: str) -> bool:
    """Whether one module may import another, by the floors they are on."""
    top, *inner = importer.split(".")
    target_top, *target_inner = target.split(".")
    if target_top == "invcap_ext":
        return True
    if top != "invcap":  # a script, or benchmarks; but nothing of theirs is for others
        return top != "invcap_ext" and target_top in ("invcap", top)
    if not inner:
        return target_top == "invcap"
    if target_top != "invcap" or not target_inner:
        return False
    return inner[0] == target_inner[0] or HEIGHT[target_inner[0]] < HEIGHT[inner[0]]


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    found = modules()
    packages = {name for name, path in found.items() if path.stem == "__init__"}
    return graph({name: path.read_text() for name, path in found.items()}, packages)


def test_no_modules_import_each_other_in_a_circle(imports):
    assert circle(imports) == []


def test_every_import_points_down(imports):
    up = [
        f"{importer} imports {target}"
        for importer, targets in imports.items()
        for target in sorted(targets)
        if not points_down(importer, target)
    ]
    assert up == []


def test_the_walk_sees_imports_of_every_kind(imports):
    assert "invcap.cli.options" in imports["invcap.cli.training"]
    assert "invcap.captioning" in imports["invcap"]  # under TYPE_CHECKING
    assert "invcap_ext.functional" in imports["invcap_ext.layers"]
    assert "benchmarks.paper_loop" in imports["benchmarks.few_steps"]  # from its own folder
    assert "invcap.cli" in imports["train"]


@pytest.mark.parametrize(
    "text",
    [
        "import p.b",
        "from p import b",
        "from p.b import x",
        "from . import b",
        "from .b import x",
        "def f():\n    from p.b import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.b as other",
    ],
)
def test_a_circle_is_found_wherever_its_imports_stand(text):
    found = circle(graph({"p": "", "p.a": text, "p.b": "from p.a import y"}, {"p"}))
    assert set(found) == {"p.a", "p.b"}
    assert not circle(graph({"p": "", "p.a": text, "p.b": ""}, {"p"}))


def test_a_package_is_a_module_of_circles():
    sources = {"p": "from q.c import x", "p.a": "", "q": "from p.a import y", "q.c": ""}
    assert set(circle(graph(sources, {"p", "q"}))) == {"p", "q"}
    sources = {"p": "from p.a import x", "p.a": "from p import y"}
    assert set(circle(graph(sources, {"p"}))) == {"p", "p.a"}


@pytest.mark.parametrize(
    ("importer", "target"),
    [
        ("invcap.data.rows", "invcap.training.trainer"),
        ("invcap.captioning.model", "invcap.prompt_inversion"),
        ("invcap.prompt_inversion.words", "invcap.captioning"),
        ("invcap.captioning.run", "invcap.cli.options"),
        ("invcap.files", "invcap"),
        ("invcap_ext.layers", "invcap.files"),
        ("invcap.tiny_sd.stage", "benchmarks.timing"),
    ],
)
def test_an_import_that_points_up_is_found(importer, target):
    assert not points_down(importer, target)


def test_every_part_of_the_package_has_a_floor():
    assert {name.split(".")[1] for name in modules() if name.startswith("invcap.")} <= {*HEIGHT}


def test_no_file_is_long():
    folders = ("python", "invcap_ext", "csrc", "benchmarks", "tests")
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in CODE and "files" not in path.parts
    }
    assert len(lengths) > 100
    assert {name: count for name, count in lengths.items() if count > MOST_LINES} == {}
