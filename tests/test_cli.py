import io
import json
import logging
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from invcap.cli import app, main
from invcap.data.shapes import draw, scenes

TINY = ("--steps", "8", "--autoencoder-steps", "4", "--batch-size", "16", "--depth", "2")


@dataclass(frozen=True)
class Printed:
    """What a command printed."""

    stdout: str
    stderr: str


def invcap(*arguments: object, code: int = 0) -> Printed:
    output, log = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(log):
        patch.setattr(sys, "argv", ["invcap", *map(str, arguments)])
        patch.setattr(logging.root, "handlers", [])
        with pytest.raises(SystemExit) as ended:
            main()
    assert (ended.value.code or 0) == code, log.getvalue()
    return Printed(output.getvalue(), log.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Sixty images of shapes with metadata.jsonl, and a broken one."""
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
    ranks = {"r_at_1", "r_at_5", "r_at_10", "median_rank"}
    assert set(metrics["caption"]) == {"mse", *ranks}
    assert set(metrics["generation"]) == {"latent_mse", "redrawn_r_at_10", *ranks}
    assert set(metrics["seconds"]) == {"prepare", "train", "evaluate"}
    assert metrics["round_trip"]["max_abs_error"] < 1e-3
    report = (trained / "report.html").read_text()
    assert report.count("data:image/png;base64,") >= 4 and "<svg" in report
    assert any((trained / "tensorboard").iterdir())
    assert not list(trained.rglob("*.pt")) and not list(trained.rglob("*.tmp"))


def test_a_finished_run_is_not_overwritten_unasked(train, trained):
    before = (trained / "model.safetensors").read_bytes()
    done = invcap(*train, trained, code=1)
    assert "holds a run already" in done.stderr
    assert (trained / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_overwriting_removes_what_a_run_wrote_and_only_when_the_new_data_can_be_used(
    train, trained, tmp_path
):
    output = tmp_path / "run"
    shutil.copytree(trained, output)
    (output / "notes.txt").write_text("mine")
    before = (output / "model.safetensors").read_bytes()
    done = invcap("train", "--data", "nowhere", "--overwrite", "--output", output, code=1)
    assert "nowhere: no such folder or file" in done.stderr
    assert (output / "model.safetensors").read_bytes() == before
    invcap(*train, output, "--overwrite", "--seed", 5)
    assert (output / "notes.txt").read_text() == "mine"
    assert (output / "model.safetensors").read_bytes() != before


@pytest.mark.slow
def test_the_configuration_that_a_run_writes_gives_the_same_run(train, trained, tmp_path):
    again = tmp_path / "again"
    invcap("train", "--config", trained / "run.yaml", "--output", again)
    for name in ("run.yaml", "model.safetensors"):
        assert (again / name).read_bytes() == (trained / name).read_bytes()
    invcap("train", "--config", trained / "run.yaml", "--seed", 3, "--output", tmp_path / "other")
    assert "seed: 3" in (tmp_path / "other" / "run.yaml").read_text()


@pytest.mark.slow
def test_evaluate_measures_what_training_measured(trained, folder):
    done = invcap("evaluate", trained, "--data", folder, "--held-out", "0.3", "--json")
    (metrics,) = json.loads(done.stdout)
    expected = json.loads((trained / "metrics.json").read_text())
    for side in ("caption", "generation"):
        assert metrics[side] == pytest.approx(expected[side], rel=1e-4)


@pytest.mark.slow
def test_caption_prints_json_and_nothing_else(trained, folder):
    done = invcap("caption", trained, folder / "0.png", folder / "7.png", "--top-k", 2, "--json")
    result = json.loads(done.stdout)
    assert [row["picture"] for row in result] == [str(folder / "0.png"), str(folder / "7.png")]
    assert all(set(c) == {"text", "score"} for row in result for c in row["captions"])
    assert [len(row["captions"]) for row in result] == [2, 2]


@pytest.mark.slow
def test_caption_chooses_from_a_file_of_sentences(trained, folder, tmp_path):
    (tmp_path / "bank.txt").write_text("a whale\n\na fiddle\n")
    done = invcap("caption", trained, folder / "0.png", "--captions", tmp_path / "bank.txt")
    assert done.stdout.split("\t")[1] in ("a whale", "a fiddle")


@pytest.mark.slow
def test_a_finished_run_gains_a_writer_that_captions_in_new_words(trained, folder, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(trained, output)
    weights = (output / "model.safetensors").read_bytes()
    error = invcap("caption", output, folder / "0.png", "--write", code=1).stderr
    assert "no writer; `invcap train --writer small --resume`" in error
    add = ("train", "--config", output / "run.yaml", "--output", output, "--resume")
    invcap(*add, "--writer", "small", "--writer-steps", 3)
    assert (output / "model.safetensors").read_bytes() == weights
    assert "writer: small" in (output / "run.yaml").read_text()
    metrics = json.loads((output / "metrics.json").read_text())
    assert set(metrics["writer"]) == {"written", "nearest", "share_new"}
    assert set(metrics["writer"]["written"]) == {"bleu", "similarity"}
    assert metrics["seconds"]["writer"] > 0
    assert "In new words" in (output / "report.html").read_text()
    command = ("caption", output, folder / "0.png", "--write", "--beams", 2, "--json")
    (row,) = json.loads(invcap(*command).stdout)
    assert [set(caption) for caption in row["captions"]] == [{"text", "score"}]


@pytest.mark.slow
def test_generate_writes_an_image_for_each_sentence(trained, tmp_path):
    done = invcap("generate", trained, "a red star", "a blue ring", "--output", tmp_path, "--json")
    result = json.loads(done.stdout)
    assert [row["text"] for row in result] == ["a red star", "a blue ring"]
    assert [Image.open(row["picture"]).size for row in result] == [(32, 32)] * 2


@pytest.mark.slow
def test_samples_of_a_sentence_are_numbered(trained, tmp_path):
    command = ("generate", trained, "a red star", "a blue ring", "--samples", 2)
    result = json.loads(invcap(*command, "--output", tmp_path, "--json").stdout)
    names = ["0000-0.png", "0000-1.png", "0001-0.png", "0001-1.png"]
    assert [row["picture"] for row in result] == [str(tmp_path / name) for name in names]
    assert [row["text"] for row in result] == ["a red star"] * 2 + ["a blue ring"] * 2


@pytest.mark.slow
def test_train_py_is_the_train_command(train):
    script = Path(__file__).parents[1] / "python" / "train.py"
    done = subprocess.run(
        [sys.executable, script, *train[1:-1], "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "--objective" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("caption", "no-such-model", "x.png"), "no-such-model: neither a folder nor a model"),
        (("train", "--data", "nowhere", "--output", "o"), "nowhere: no such folder or file"),
        (("train", "--size", "big", "--output", "o"), "size must be HEIGHTxWIDTH"),
        (("train", "--steps", "0", "--output", "o"), "steps must be at least 1, got 0"),
        (("train", "--objective", "both", "--output", "o"), "objective must be one of"),
        (("train", "--size", "100000x100000", "--output", "o"), "size must be from 1x1 to"),
        (("train", "--held-out", "2", "--output", "o"), "expected a share between 0 and 1, got 2"),
        (("train", "--learning-rate", "0", "--output", "o"), "learning_rate must be finite"),
        (("train", "--learning-rate", "nan", "--output", "o"), "learning_rate must be finite"),
        (("train", "--negative-slope", "-1", "--output", "o"), "negative_slope must be finite"),
        (("train", "--noise", "inf", "--output", "o"), "noise must be finite"),
        (("train", "--device", "tpu", "--output", "o"), "device must be auto, cpu, cuda or cuda:N"),
        (("train", "--precision", "int8", "--output", "o"), "precision must be one of"),
        (("train", "--report-to", "paper", "--output", "o"), "report_to must be one of"),
        (("train", "--storage", "int8", "--output", "o"), "storage must be one of"),
        (("train", "--autoencoder", "nowhere", "--output", "o"), "nowhere: neither a folder nor"),
        (("train", "--image-encoder", "unclip:", "--output", "o"), "needs a folder or hub name"),
        (
            ("train", "--image-encoder", "conv", "--autoencoder", "a", "--output", "o"),
            "autoencoder must not be given beside image_encoder, got 'a' and 'conv'",
        ),
        (("train", "--sentence-encoder", "./nowhere", "--output", "o"), "sentence_encoder: ./nowh"),
        (
            ("train", "--writer", "./nowhere", "--output", "o"),
            "writer: expected `small`, or a fold",
        ),
        (("train", "--writer-steps", "5", "--output", "o"), "writer_steps needs writer, such as"),
        (
            ("train", "--writer", "small", "--writer-steps", "0", "--output", "o"),
            "writer steps must be at least 1, got 0",
        ),
        (("caption", "m", "x.png", "--beams", "3"), "beams needs write, got 3"),
        (
            ("caption", "m", "x.png", "--write", "--captions", "f.txt"),
            "captions must not be given beside write, got f.txt",
        ),
        (("train-autoencoder", "--steps", "0", "--output", "o"), "steps must be at least 1, got 0"),
        (("train", "--contrastive", "-1", "--output", "o"), "contrastive must be finite and at"),
        (("train", "--robust-inverse", "nan", "--output", "o"), "robust_inverse must be finite"),
        (("train", "--caption-noise", "inf", "--output", "o"), "caption_noise must be finite"),
        (("train", "--drawings", "-1", "--output", "o"), "drawings must be at least 0, got -1"),
        (
            ("data", "openclipart", "--source", "nowhere", "--output", "o"),
            "apt-get install openclipart-png openclipart-svg",
        ),
        (
            ("data", "emoji", "--annotations", "nowhere", "--output", "o"),
            "apt-get install unicode-cldr-core",
        ),
    ],
)
def test_a_users_error_is_one_line_and_a_failure(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
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
        *("train", "train-autoencoder", "train-starts", "evaluate"),
        *("caption", "generate", "score", "invert"),
        *("data emoji", "data openclipart"),
    ],
)
def test_every_commands_help_shows_an_example(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"invcap {command}" in result.output.split("Example:")[1]


def test_a_configuration_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_text("stepps: 3\n")
    (tmp_path / "list.yaml").write_text("- 3\n")
    for name, message in (
        ("bad.yaml", "stepps is not an option"),
        ("list.yaml", "expected option"),
    ):
        result = CliRunner().invoke(app, ["train", "--output", "o", "--config", tmp_path / name])
        assert result.exit_code == 2 and message in " ".join(result.output.split())
