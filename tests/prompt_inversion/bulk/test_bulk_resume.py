import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bulk_runs import BATCHES, NAMES, SETTINGS, bulk, contents, draw_quickly
from forks import fork, fork_two, run_forked, start_server
from kills import KILLS, KilledError, kill_times, run_killed

from invcap.files import write_text
from invcap.prompt_inversion import PromptInversionPipeline, report
from invcap.prompt_inversion import bulk as run
from invcap.prompt_inversion.axes import save_axes
from invcap.prompt_inversion.state import State


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_threads(pipeline, gallery, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    run.begin(pipeline, [gallery], tmp_path / "found", SETTINGS, resume=False)
    torch.set_num_threads(threads)
    rows = bulk(pipeline, gallery, tmp_path / "found", resume=True)
    assert len(rows) == len(NAMES)


@pytest.mark.parametrize(
    ("content", "message"), [("[]", "not the record of an inversion"), ("{", "not a JSON file")]
)
def test_a_record_that_cannot_be_read_is_named(content, message, pipeline, gallery, tmp_path):
    write_text(tmp_path / "found" / "run.json", content)
    with pytest.raises(ValueError, match=rf"found/run\.json: {message}"):
        bulk(pipeline, gallery, tmp_path / "found", resume=True)


def kill_while_climbing(monkeypatch) -> None:
    """In the second batch, after two of four steps."""
    save, calls = State.save, []

    def killed(self, path, identity):
        save(self, path, identity)
        calls.append(path)
        if len({path.name for path in calls}) == 2 and self.step == 2:
            raise KilledError

    monkeypatch.setattr(State, "save", killed)


def kill_while_writing(monkeypatch) -> None:
    """In the second batch, within the files of its second picture."""
    save = report.save_conditioning

    def killed(path, *arguments):
        if path.parts[-4:-1] == ("deep", "er", "a"):
            raise KilledError
        save(path, *arguments)

    monkeypatch.setattr(report, "save_conditioning", killed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "finished", "steps_left"),
    [(kill_while_climbing, 2, 2 + 4), (kill_while_writing, 3, 0 + 4)],
)
def test_a_killed_run_goes_on_and_ends_as_if_it_had_never_stopped(
    kill, finished, steps_left, pipeline, gallery, tmp_path, inversions, monkeypatch
):
    whole, output = tmp_path / "whole", tmp_path / "found"
    bulk(pipeline, gallery, whole)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill(patch)
        bulk(pipeline, gallery, output)
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["00001.safetensors"]
    before = {path: path.stat().st_mtime_ns for path in output.rglob("result.json")}
    assert len(before) == finished
    for left in ("checkpoints/.00001.safetensors.1.tmp", "deep/a/.strip.png.1.tmp"):
        (output / left).parent.mkdir(parents=True, exist_ok=True)
        (output / left).write_text("written by a process that is no more")

    inversions.clear()
    steps = []
    hook = pipeline.text_to_image.unet.register_forward_hook(
        lambda *_: (torch.is_grad_enabled() and steps.append(1)) or None
    )
    rows = bulk(pipeline, gallery, output, resume=True)
    hook.remove()
    assert inversions == [2, 1] and len(steps) == steps_left
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    moved = {
        path: value.replace(b"/found/", b"/whole/") for path, value in contents(output).items()
    }
    assert moved == contents(whole)

    again = bulk(pipeline, gallery, output, resume=True)
    assert again == rows and inversions == [2, 1]


@pytest.mark.slow
def test_a_batch_killed_after_its_last_file_is_only_tidied_up(
    pipeline, gallery, tmp_path, inversions
):
    output = tmp_path / "found"
    rows = bulk(pipeline, gallery, output)
    left = output / "checkpoints" / "00002.safetensors"
    left.write_text("the state")
    assert bulk(pipeline, gallery, output, resume=True) == rows
    assert len(inversions) == BATCHES and not left.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "seed differs: the file has 7, this run 8"),
        ({"batch_size": 3}, "batch_size differs: the file has 2, this run 3"),
        ({"size": (16, 18)}, r"size differs: the file has \[16, 16\], this run \[16, 18\]"),
        ({"start": "a red square"}, "start differs: the file has a room, this run a red square"),
        ({"guidance_scale": 2.0}, "guidance_scale differs: the file has 1.0, this run 2.0"),
        ({"over": "token_vectors"}, "over differs: the file has hidden_states"),
        (
            {"inversion": replace(SETTINGS.inversion, steps=5)},
            "steps differs: the file has 4, this run 5",
        ),
    ],
)
def test_resuming_with_other_settings_is_refused(
    changes, message, pipeline, gallery, tmp_path, inversions
):
    output = tmp_path / "found"
    run.begin(pipeline, [gallery], output, SETTINGS, resume=False)
    with pytest.raises(ValueError, match=message):
        bulk(pipeline, gallery, output, replace(SETTINGS, **changes), resume=True)
    assert not inversions


def test_resuming_with_other_learned_starts_is_refused(pipeline, gallery, tmp_path):
    starts, output = tmp_path / "starts", tmp_path / "found"
    save_axes(starts, torch.eye(16), pipeline.model)
    settings = replace(SETTINGS, starts=str(starts))
    run.begin(pipeline, [gallery], output, settings, resume=False)
    save_axes(starts, -torch.eye(16), pipeline.model)
    again = PromptInversionPipeline(pipeline.model)
    with pytest.raises(ValueError, match="learned differs: the file has"):
        bulk(again, gallery, output, settings, resume=True)


def test_resuming_other_pictures_or_another_model_or_unasked_is_refused(
    pipeline, own_pipeline, other_folder, gallery, pictures, tmp_path
):
    output = tmp_path / "found"
    run.begin(pipeline, [gallery], output, SETTINGS, resume=False)
    with pytest.raises(ValueError, match="found: holds an inversion; resume it, or give another"):
        bulk(pipeline, gallery, output)
    other = PromptInversionPipeline.from_pretrained(other_folder)
    with pytest.raises(ValueError, match="the weights differ: the file has those of"):
        bulk(other, gallery, output, resume=True)
    with pytest.raises(ValueError, match=r"dtype differs: the file has torch\.float32"):
        bulk(own_pipeline.to(torch.bfloat16), gallery, output, resume=True)
    pictures[0].save(gallery / "d.png")
    message = "picture 3 differs: the file has deep/a.png, this run d.png"
    with pytest.raises(ValueError, match=message):
        bulk(pipeline, gallery, output, resume=True)
    (gallery / "d.png").unlink()
    (gallery / "e.png").unlink()
    with pytest.raises(ValueError, match=r"picture 5 differs: the file has e\.png, this run None"):
        bulk(pipeline, gallery, output, resume=True)


def bulk_elsewhere(folder: Path, gallery: Path, output: Path, **options: Any) -> None:
    """`bulk`, in a process of its own."""
    draw_quickly(pytest.MonkeyPatch())
    bulk(PromptInversionPipeline.from_pretrained(folder), gallery, output, **options)


@pytest.mark.slow
def test_two_processes_write_what_one_does(folder, gallery, tmp_path):
    log, output = tmp_path / "log", tmp_path / "found"
    one_by_one = partial(bulk_elsewhere, settings=replace(SETTINGS, batch_size=1))
    assert fork_two(one_by_one, folder, gallery, output, log=log) == [0, 0], log.read_text()
    assert "batch 1 of 5" in log.read_text() and "batch 2 of 5" not in log.read_text()
    output.rename(tmp_path / "together")
    assert fork(one_by_one, folder, gallery, output, log=log) == 0, log.read_text()
    assert contents(output) == contents(tmp_path / "together")


@pytest.mark.slow
def test_processes_fail_together_and_one_resumes_what_two_began(folder, gallery, monkeypatch):
    monkeypatch.chdir(gallery.parent)
    log = Path("log")
    command = ["invert", "gallery/b.png", "gallery/deep", "--model", folder, "--steps", 1]
    command += ["--batch-size", 1, "--output", "found"]
    assert run_forked(*command, log=log) == 0, log.read_text()
    Path("found").rename("alone")
    # A file where the second batch, which is the second process's, needs a folder.
    Path("found").mkdir()
    Path("found/a").write_text("in the way")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    failed = subprocess.run(
        [*launcher, "invcap.cli", *map(str, command)], capture_output=True, text=True, timeout=240
    )
    assert failed.returncode != 0 and "found/a" in failed.stderr
    assert "rank      : 1 " in failed.stderr
    Path("found/a").unlink()
    assert run_forked(*command, "--resume", log=log) == 0, log.read_text()
    assert contents(Path("found")) == contents(Path("alone"))


@pytest.mark.slow
@pytest.mark.long
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(folder, gallery, tmp_path):
    log, output = tmp_path / "log", tmp_path / "found"
    resumed = partial(fork, partial(bulk_elsewhere, folder, gallery, output, resume=True), log=log)
    start_server()
    started = time.monotonic()
    assert resumed() == 0, log.read_text()
    seconds = time.monotonic() - started
    expected = contents(output)
    times = kill_times(KILLS, 0.2 * seconds, 0.8 * seconds)
    while times:
        shutil.rmtree(output)
        assert run_killed(resumed, times) == 0, log.read_text()
        assert contents(output) == expected, log.read_text()
