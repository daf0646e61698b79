"""Training that is killed, and training in two processes, ends where one quiet run ends."""

import json
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from forks import fork_two, run_forked, run_invcap, start_server
from kills import KILLS, kill_times, run_killed
from safetensors.torch import load_file

from invcap.data.shapes import draw, scenes
from invcap.encoders.autoencoder import ConvAutoencoder

TINY = ("--autoencoder-steps", 6, "--batch-size", 16, "--depth", 2, "--checkpoint-every", 2)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("images")
    rows = []
    for number, scene in enumerate(list(scenes())[::400]):
        draw(scene, 48).save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": scene.caption()})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ("train", "--data", folder, "--held-out", 0.3, "--report-to", "none", *TINY)


@pytest.fixture(scope="module")
def train(arguments):
    def run(output: Path, *more: object, two: bool = False, **options):
        output.mkdir(exist_ok=True)
        every = (*arguments, "--output", output / "run", "--cache", output / "cache", *more)
        if two:
            return fork_two(run_invcap, *every, log=output / "log")
        return run_forked(*every, log=output / "log", **options)

    return run


def written(output: Path) -> dict[str, bytes]:
    """What a run wrote, less what holds times and folders."""
    apart = ("metrics.json", "report.html", "run.yaml", "checkpoint.safetensors")
    files = sorted(path for path in output.rglob("*") if path.is_file() and path.name not in apart)
    found = {str(path.relative_to(output)): path.read_bytes() for path in files}
    metrics = json.loads((output / "metrics.json").read_text()) | {"seconds": None}
    # The order of metadata in a safetensors file is random.
    checkpoint = load_file(output / "checkpoint.safetensors")
    state = {name: value.numpy().tobytes() for name, value in checkpoint.items()}
    return found | state | {"metrics": json.dumps(metrics).encode()}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_killed_at_any_moment_resumes_to_the_same_bytes(train, tmp_path):
    start_server()
    started = time.monotonic()
    assert train(tmp_path / "whole", "--steps", 12) == 0
    seconds = time.monotonic() - started
    expected = written(tmp_path / "whole" / "run")
    times = kill_times(KILLS, 0.1 * seconds, seconds)
    output = tmp_path / "killed"
    while times:
        shutil.rmtree(output, ignore_errors=True)
        code = run_killed(partial(train, output, "--steps", 12, "--resume"), times)
        assert code == 0, (output / "log").read_text()
        found = written(output / "run")
        assert [name for name in expected | found if expected.get(name) != found.get(name)] == []


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_processes_give_the_weights_of_one_and_one_resumes_what_two_began(train, tmp_path):
    ConvAutoencoder(latent_channels=6, channels=8, blocks=1).save_pretrained(tmp_path / "encoder")
    how = ("--steps", 50, "--autoencoder", tmp_path / "encoder")
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(one, *how) == 0
    codes = train(two, *how, two=True)
    assert codes == [0, 0], (two / "log").read_text()
    weights, others = (load_file(path / "run" / "model.safetensors") for path in (one, two))
    for name, weight in weights.items():
        assert torch.dist(weight, others[name]) <= 1e-5 * weight.norm(), name
    before = written(two / "run")
    assert train(two, *how, "--resume") == 0
    assert written(two / "run") == before
