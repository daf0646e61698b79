"""The main job and prompt inversion, small, on a GPU."""

import json

import pytest
from typer.testing import CliRunner

from invcap.cli import app
from invcap.data.shapes import Scene, draw

TINY = ("--steps", "20", "--autoencoder-steps", "20", "--batch-size", "64", "--depth", "3")


def invcap(*arguments: object) -> list[dict]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--device", "cuda", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "square.png"
    draw(Scene("large", "red", "square", "in the center", "black")).save(path)
    return path


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_captioner_trains_captions_and_draws(tmp_path, image, precision):
    output = tmp_path / "run"
    (metrics,) = invcap(
        *("train", "--output", output, "--cache", tmp_path / "cache", "--precision", precision),
        *TINY,
    )
    assert metrics["round_trip"]["max_abs_error"] < 1e-2
    (row,) = invcap("caption", output, image)
    assert row["captions"][0]["text"]
    (drawn,) = invcap("generate", output, "a red square", "--output", tmp_path / "drawn")
    assert drawn["text"] == "a red square"


def test_an_inversion_raises_the_bound(tmp_path, image):
    (row,) = invcap("invert", image, "--output", tmp_path / "found", "--steps", 50)
    history = json.loads((tmp_path / "found" / "square" / "history.json").read_text())
    assert row["log_likelihood"] > history["held_out"][0]
    before, after = invcap("score", image, "a green circle on white", "a red square on black")
    assert after["log_likelihood"] > before["log_likelihood"]
