"""The notebooks run from top to bottom, at a small size."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from pages import DOCS

MOST_BYTES = 100_000
SMALL = {
    "five_minutes_with_the_layer": {"features": 16, "rows": 8},
    "train_and_invert_on_shapes": {
        "scenes_used": 60,
        "autoencoder_steps": 3,
        "steps": 3,
        "batch_size": 8,
    },
    "a_captioner_on_your_own_folder": {"encoder_steps": 3, "steps": 3, "batch_size": 8},
    "score_and_invert": {"draws": 4, "steps": 1, "room_steps": 1},
}
NOTEBOOKS = sorted((DOCS / "examples").glob("*.ipynb"))


def with_parameters(notebook: nbformat.NotebookNode, values: dict[str, int]) -> None:
    """Adds a cell with other values after the one with the tag `parameters`."""
    (place,) = [
        number
        for number, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", ())
    ]
    names = {line.partition(" = ")[0] for line in notebook.cells[place].source.splitlines()}
    assert set(values) <= names
    source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(source))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    with_parameters(notebook, SMALL[path.stem])
    NotebookClient(
        notebook,
        kernel_name="python3",
        startup_timeout=300,
        timeout=300,
        resources={"metadata": {"path": tmp_path}},
    ).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_run_without_an_error_and_its_outputs_are_small(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert path.stat().st_size <= MOST_BYTES
    assert "/tmp/" not in path.read_text()


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == set(SMALL)
