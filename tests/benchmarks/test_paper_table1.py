"""The paper's Table 1 at a small size: the network learns, and its inverse inverts."""

import json
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def paper_table1(script) -> ModuleType:
    return script("paper_table1")


@pytest.mark.slow
def test_a_short_run_learns_the_exponential_and_its_inverse(paper_table1: ModuleType) -> None:
    (before,) = paper_table1.run(["exponential"], steps=1)
    (after,) = paper_table1.run(["exponential"], steps=300)
    assert after.function == "exponential"
    # Measured: 3.7e-4 and 5.8e-4 after, 0.9 and 2 before.
    assert after.learning_mse < 2e-3 < before.learning_mse / 100
    assert after.inverting_mse < 2e-3 < before.inverting_mse / 100


def test_a_seed_gives_the_same_errors_again(paper_table1: ModuleType) -> None:
    def errors(seed: int) -> tuple[float, float]:
        (row,) = paper_table1.run(["sine"], steps=3, seed=seed)
        return row.learning_mse, row.inverting_mse

    assert errors(0) == errors(0) != errors(1)


def test_every_function_increases_on_its_interval(paper_table1: ModuleType) -> None:
    for function in paper_table1.FUNCTIONS.values():
        points = paper_table1.torch.linspace(-function.bound, function.bound, 1001)
        assert (function.apply(points).diff() > 0).all()


def test_json_is_one_list_with_both_errors_of_all_three_functions(
    paper_table1: ModuleType,
) -> None:
    app = typer.Typer()
    app.command()(paper_table1.main)
    result = CliRunner().invoke(app, ["--json", "--steps", "2"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["function"] for row in rows] == ["sine", "polynomial", "exponential"]
    assert all({"learning_mse", "inverting_mse", "seconds"} < row.keys() for row in rows)
