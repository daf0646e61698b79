import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from invcap.files import write_text
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline, report
from invcap.prompt_inversion import bulk as run
from invcap.prompt_inversion.state import State

NAMES = ["b.png", "c.JPG", "deep/a.png", "deep/er/a.png", "e.png"]
FOLDERS = [name.rpartition(".")[0] for name in NAMES]
SETTINGS = run.RunSettings(
    size=(16, 16),
    inversion=InversionSettings(
        steps=4, draws=2, bank=16, held_out=8, evaluate_every=2, snapshots=2, checkpoint_every=1
    ),
    seed=7,
    batch_size=2,
)
BATCHES = 3
LAUNCHED = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}


class KilledError(Exception):
    pass


@pytest.fixture
def gallery(pictures, tmp_path) -> Path:
    """A folder of five pictures, and a text."""
    root = tmp_path / "gallery"
    for number, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pictures[number % len(pictures)].save(root / name)
    (root / "notes.txt").write_text("not for us")
    return root


@pytest.fixture
def pipeline(pipeline, monkeypatch) -> PromptInversionPipeline:
    """The pipeline of random weights, without the time that its drawings and plots take."""
    generate = PromptInversionPipeline.generate

    def quick(self, prompt_embeds, seeds, size=None, *_):
        return generate(self, prompt_embeds, seeds, size, num_inference_steps=1)

    monkeypatch.setattr(PromptInversionPipeline, "generate", quick)
    monkeypatch.setattr(report, "write_figure", lambda path, figure: write_text(path, "a plot"))
    return pipeline


@pytest.fixture
def inversions(monkeypatch) -> list[int]:
    """The pictures of each call of the pipeline's `invert`, as they come."""
    calls: list[int] = []
    invert = PromptInversionPipeline.invert

    def counted(self, images, *arguments, **options):
        calls.append(len(images))
        return invert(self, images, *arguments, **options)

    monkeypatch.setattr(PromptInversionPipeline, "invert", counted)
    return calls


def bulk(pipeline, paths, output, settings=SETTINGS, resume=False):
    paths = [paths] if isinstance(paths, Path) else paths
    return run.invert(pipeline, paths, output, settings, run.start_processes(), resume)


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"seconds": None}


def contents(output: Path) -> dict[str, bytes]:
    """What a run wrote, without the seconds that it took."""
    found = {}
    for path in filter(Path.is_file, output.rglob("*")):
        content = path.read_bytes()
        if path.name == run.RESULT:
            content = json.dumps(timeless(json.loads(content))).encode()
        found[path.relative_to(output).as_posix()] = content
    return found


def test_a_folder_gives_one_folder_for_each_picture_in_the_order_of_paths(
    pipeline, gallery, tmp_path, inversions
):
    output = tmp_path / "found"
    rows = bulk(pipeline, gallery, output)
    assert inversions == [2, 2, 1]
    assert [row["picture"] for row in rows] == [str(gallery / name) for name in NAMES]
    files = {"embedding.safetensors", "history.json", "bounds.png", "strip.png", "result.json"}
    assert {path.relative_to(output).as_posix() for path in output.rglob("*.*")} == {
        "run.json",
        *(f"{folder}/{file}" for folder in FOLDERS for file in files),
    }
    for row, folder in zip(rows, FOLDERS, strict=True):
        assert json.loads((output / folder / "result.json").read_text()) == row
        assert row["embedding"] == str(output / folder / "embedding.safetensors")
    record = json.loads((output / "run.json").read_text())
    assert record["pictures"] == NAMES
    assert (record["seed"], record["size"], record["inversion"]["steps"]) == (7, [16, 16], 4)
    assert not torch.distributed.is_initialized()


def test_a_pictures_seed_is_that_of_its_place_in_the_whole_list(pipeline, gallery, tmp_path):
    rows = bulk(pipeline, gallery, tmp_path / "found")
    alone = bulk(
        pipeline, gallery / NAMES[3], tmp_path / "alone", replace(SETTINGS, seed=SETTINGS.seed + 3)
    )
    assert alone[0]["log_likelihood"] == pytest.approx(rows[3]["log_likelihood"], abs=1e-5)
    other = bulk(pipeline, gallery / NAMES[3], tmp_path / "other")
    assert other[0]["log_likelihood"] != pytest.approx(rows[3]["log_likelihood"], abs=1e-3)


def test_a_resumed_run_is_of_the_same_pictures_not_of_others_by_their_names(
    pipeline, gallery, tmp_path
):
    bulk(pipeline, gallery, tmp_path / "found")
    (gallery / NAMES[1]).write_bytes((gallery / NAMES[0]).read_bytes())
    with pytest.raises(ValueError, match=f"{NAMES[1]} is not the picture that it was"):
        bulk(pipeline, gallery, tmp_path / "found", resume=True)


def test_files_and_folders_mix_in_the_order_given(pipeline, gallery, tmp_path):
    rows = bulk(pipeline, [gallery / "e.png", gallery / "deep"], tmp_path / "found")
    assert [Path(row["embedding"]).parent for row in rows] == [
        tmp_path / "found" / folder for folder in ("e", "a", "er/a")
    ]


def test_a_broken_file_in_a_folder_is_skipped_and_logged(
    pipeline, gallery, tmp_path, caplog, inversions
):
    whole = bulk(pipeline, gallery, tmp_path / "whole")
    (gallery / "a.png").write_text("not a picture")
    (gallery / "d.png").write_bytes((gallery / "e.png").read_bytes()[:-30])
    with caplog.at_level(logging.WARNING):
        rows = bulk(pipeline, gallery, tmp_path / "found")
    assert [row["log_likelihood"] for row in rows] == [row["log_likelihood"] for row in whole]
    assert "skipped 2" in caplog.text
    assert str(gallery / "a.png") in caplog.text and str(gallery / "d.png") in caplog.text
    again = bulk(pipeline, gallery, tmp_path / "found", resume=True)
    assert again == rows and len(inversions) == 2 * BATCHES


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["e.png", "broken.png"], r"broken\.png: expected a picture"),
        (["e.png", "nowhere.png"], r"nowhere\.png: expected a picture"),
        (["e.png", "empty"], r"empty: expected pictures in the folder"),
        (["worse"], r"none of 1 can be decoded\n.*worse/one\.png"),
        (["deep", "deep/a.png"], r"deep/a\.png and .*deep/a\.png, both for a$"),
        (["twins"], r"twins/one\.gif and .*twins/one\.png, both for one$"),
        ([""], r"found: must not be in .*gallery"),
    ],
)
def test_what_cannot_be_used_is_an_error_before_anything_is_computed(
    paths, message, pipeline, gallery, pictures, inversions
):
    for folder in ("empty", "worse", "twins"):
        (gallery / folder).mkdir()
    for broken in ("broken.png", "worse/one.png"):
        (gallery / broken).write_text("not a picture")
    for name in ("twins/one.png", "twins/one.gif"):
        pictures[0].save(gallery / name)
    output = gallery / "found"
    with pytest.raises(ValueError, match=message):
        bulk(pipeline, [gallery / path for path in paths], output)
    assert not inversions and not output.exists()


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
    save = report.save_prompt_embeds

    def killed(path, *arguments):
        if path.parts[-4:-1] == ("deep", "er", "a"):
            raise KilledError
        save(path, *arguments)

    monkeypatch.setattr(report, "save_prompt_embeds", killed)


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
    pipeline.text_to_image.unet.register_forward_hook(
        lambda *_: (torch.is_grad_enabled() and steps.append(1)) or None
    )
    rows = bulk(pipeline, gallery, output, resume=True)
    assert inversions == [2, 1] and len(steps) == steps_left
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    moved = {
        path: value.replace(b"/found/", b"/whole/") for path, value in contents(output).items()
    }
    assert moved == contents(whole)

    again = bulk(pipeline, gallery, output, resume=True)
    assert again == rows and inversions == [2, 1]


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
        ({"seed": 8}, "another seed: the folder has 7, this run 8"),
        ({"batch_size": 3}, "another batch_size: the folder has 2, this run 3"),
        ({"size": (16, 18)}, r"another size: the folder has \[16, 16\], this run \[16, 18\]"),
        ({"start": "a red square"}, "another start: the folder has a room, this run a red square"),
        ({"guidance_scale": 2.0}, "another guidance_scale: the folder has 1.0, this run 2.0"),
        ({"over": "token_vectors"}, "another over: the folder has hidden_states"),
        (
            {"inversion": replace(SETTINGS.inversion, steps=5)},
            "another steps: the folder has 4, this run 5",
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


def test_resuming_other_pictures_or_another_model_or_unasked_is_refused(
    pipeline, other_folder, gallery, pictures, tmp_path
):
    output = tmp_path / "found"
    run.begin(pipeline, [gallery], output, SETTINGS, resume=False)
    with pytest.raises(ValueError, match="found: holds an inversion; resume it, or give another"):
        bulk(pipeline, gallery, output)
    other = PromptInversionPipeline.from_pretrained(other_folder)
    with pytest.raises(ValueError, match="other weights: the folder has those of"):
        bulk(other, gallery, output, resume=True)
    with pytest.raises(ValueError, match=r"another dtype: the folder has torch\.float32"):
        bulk(pipeline.to(torch.bfloat16), gallery, output, resume=True)
    pipeline.to(torch.float32)
    pictures[0].save(gallery / "d.png")
    message = "another picture 3: the folder has deep/a.png, this run d.png"
    with pytest.raises(ValueError, match=message):
        bulk(pipeline, gallery, output, resume=True)
    (gallery / "d.png").unlink()
    (gallery / "e.png").unlink()
    with pytest.raises(ValueError, match=r"picture 5: the folder has e\.png, this run None"):
        bulk(pipeline, gallery, output, resume=True)


def test_two_processes_write_what_one_does_and_fail_together(folder, gallery, monkeypatch, capsys):
    monkeypatch.chdir(gallery.parent)
    paths = [Path("gallery/b.png"), Path("gallery/deep")]
    settings = run.RunSettings((16, 16), InversionSettings(steps=1), batch_size=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = bulk(PromptInversionPipeline.from_pretrained(folder), paths, Path("found"), settings)
    torch.set_num_threads(threads)
    assert "batch 2 of 3" in capsys.readouterr().err
    Path("found").rename("alone")

    # A file where the second batch, which is the second process's, needs a folder.
    Path("found").mkdir()
    Path("found/a").write_text("in the way")
    command = ["invert", *paths, "--output", "found", "--model", folder, "--json"]
    command += ["--steps", 1, "--batch-size", 1]
    failed = launch(*command)
    assert failed.returncode != 0 and not failed.stdout
    assert "found/a" in failed.stderr and "local_rank: 1" in failed.stderr
    Path("found/a").unlink()

    done = launch(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert [timeless(row) for row in json.loads(done.stdout)] == [timeless(row) for row in alone]
    assert contents(Path("found")) == contents(Path("alone"))
    assert "batch 2 of 3" not in failed.stderr + done.stderr


def launch(*command: object) -> subprocess.CompletedProcess:
    """Runs `invcap` in two processes, without a GPU."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launcher += ["--num_processes", "2", "--main_process_port", "0", "-m", "invcap.cli"]
    return subprocess.run(
        [*launcher, *map(str, command)],
        env=os.environ | LAUNCHED,
        capture_output=True,
        text=True,
        timeout=240,
    )
