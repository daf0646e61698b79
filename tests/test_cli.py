import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from invcap.cli import app, main
from invcap.data.shapes import draw, scenes

TINY = ("--steps", "8", "--autoencoder-steps", "4", "--batch-size", "16", "--depth", "2")


def invcap(*arguments: object, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", "invcap.cli", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Sixty pictures of shapes with metadata.jsonl, and a broken one."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for i, scene in enumerate(list(scenes())[::400]):
        draw(scene, 48).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": scene.caption()})
    (folder / "broken.png").write_bytes(b"not a picture")
    rows.append({"file_name": "broken.png", "text": "a broken picture"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def train(folder, tmp_path_factory):
    """The arguments of a tiny training run, less its output."""
    cache = tmp_path_factory.mktemp("cache")
    return ("train", "--data", folder, "--held-out", "0.3", "--cache", cache, *TINY, "--output")


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    done = invcap(*train, output)
    assert "skipped 1" in done.stderr and "broken.png" in done.stderr
    return output


def test_a_run_writes_its_model_metrics_report_and_logs(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert set(metrics) == {"caption", "generation", "round_trip", "seconds"}
    assert set(metrics["caption"]) == {"mse", "r_at_1", "r_at_10"}
    assert set(metrics["generation"]) == {"latent_mse", "r_at_1", "r_at_10"}
    assert set(metrics["seconds"]) == {"prepare", "train", "evaluate"}
    assert metrics["round_trip"]["max_abs_error"] < 1e-3
    report = (trained / "report.html").read_text()
    assert report.count("data:image/png;base64,") >= 4 and "<svg" in report
    assert any((trained / "tensorboard").iterdir())
    assert not list(trained.rglob("*.pt")) and not list(trained.rglob("*.tmp"))


def test_a_run_killed_at_any_moment_and_resumed_gives_the_same_weights(train, trained, tmp_path):
    output = tmp_path / "killed"
    arguments = [sys.executable, "-m", "invcap.cli", *map(str, train), str(output)]
    arguments += ["--checkpoint-every", "1"]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (output / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    invcap(*train, output, "--checkpoint-every", "1", "--resume")
    weights, resumed = (load_file(path / "model.safetensors") for path in (trained, output))
    assert all((weights[name] == resumed[name]).all() for name in weights)


def test_a_finished_run_is_not_overwritten_unasked(train, trained):
    before = (trained / "model.safetensors").read_bytes()
    done = invcap(*train, trained, code=1)
    assert "holds a run already" in done.stderr
    assert (trained / "model.safetensors").read_bytes() == before


def test_evaluate_measures_what_training_measured(trained, folder):
    done = invcap("evaluate", trained, "--data", folder, "--held-out", "0.3", "--json")
    (metrics,) = json.loads(done.stdout)
    expected = json.loads((trained / "metrics.json").read_text())
    for side in ("caption", "generation"):
        assert metrics[side] == pytest.approx(expected[side], rel=1e-4)


def test_caption_prints_json_and_nothing_else(trained, folder):
    done = invcap("caption", trained, folder / "0.png", folder / "7.png", "--top-k", 2, "--json")
    result = json.loads(done.stdout)
    assert [row["picture"] for row in result] == [str(folder / "0.png"), str(folder / "7.png")]
    assert all(set(c) == {"text", "score"} for row in result for c in row["captions"])
    assert [len(row["captions"]) for row in result] == [2, 2]


def test_caption_chooses_from_a_file_of_sentences(trained, folder, tmp_path):
    (tmp_path / "bank.txt").write_text("a whale\n\na fiddle\n")
    done = invcap("caption", trained, folder / "0.png", "--captions", tmp_path / "bank.txt")
    assert done.stdout.split("\t")[1] in ("a whale", "a fiddle")


def test_generate_writes_a_picture_for_each_sentence(trained, tmp_path):
    done = invcap("generate", trained, "a red star", "a blue ring", "--output", tmp_path, "--json")
    result = json.loads(done.stdout)
    assert [row["text"] for row in result] == ["a red star", "a blue ring"]
    assert [Image.open(row["picture"]).size for row in result] == [(32, 32)] * 2


def test_train_py_is_the_train_command(train):
    script = Path(__file__).parents[1] / "python" / "train.py"
    done = subprocess.run(
        [sys.executable, script, *train[1:-1], "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "--objective" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("caption", "no-such-model", "x.png"), "no-such-model/config.json: no such file"),
        (("train", "--data", "nowhere", "--output", "o"), "nowhere: no such folder or file"),
        (("train", "--size", "big", "--output", "o"), "size must be HEIGHTxWIDTH"),
        (("train", "--steps", "0", "--output", "o"), "steps must be at least 1, got 0"),
        (("train", "--objective", "both", "--output", "o"), "objective must be one of"),
    ],
)
def test_a_users_error_is_one_line_and_a_failure(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["invcap", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    assert stop.value.code == 1 and not printed.out
    assert message in printed.err and "Traceback" not in printed.err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "command",
    [
        *("train", "train-autoencoder", "evaluate", "caption", "generate", "score", "invert"),
        "data emoji",
    ],
)
def test_every_commands_help_shows_an_example(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"invcap {command}" in result.output.split("Example:")[1]
