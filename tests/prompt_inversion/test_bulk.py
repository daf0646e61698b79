import json
import logging
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from math import nan
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from forks import fork, fork_two, run_forked, start_server
from kills import KilledError
from PIL import Image

from invcap.captioning import Caption
from invcap.diffusion.model import FrozenTextToImage
from invcap.files import write_text
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline, report, sources
from invcap.prompt_inversion import bulk as run
from invcap.prompt_inversion.axes import save_axes
from invcap.prompt_inversion.state import State
from invcap.training.devices import start_processes

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
    draw_quickly(monkeypatch)
    return pipeline


def draw_quickly(patch: pytest.MonkeyPatch) -> None:
    generate = FrozenTextToImage.generate

    def quick(self, conditioning, seeds, size=None, guidance_scale=1.0, *_):
        return generate(self, conditioning, seeds, size, guidance_scale, num_inference_steps=1)

    patch.setattr(FrozenTextToImage, "generate", quick)
    patch.setattr(report, "write_figure", lambda path, figure: write_text(path, "a plot"))


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


def bulk(pipeline, paths, output, settings=SETTINGS, resume=False, captioner=None):
    paths = [paths] if isinstance(paths, Path) else paths
    processes = start_processes("cpu")
    return run.invert(pipeline, paths, output, settings, processes, resume, captioner)


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_pictures_seed_is_that_of_its_place_in_the_whole_list(pipeline, gallery, tmp_path):
    rows = bulk(pipeline, gallery, tmp_path / "found")
    alone = bulk(
        pipeline, gallery / NAMES[3], tmp_path / "alone", replace(SETTINGS, seed=SETTINGS.seed + 3)
    )
    assert alone[0]["log_likelihood"] == pytest.approx(rows[3]["log_likelihood"], abs=1e-5)
    other = bulk(pipeline, gallery / NAMES[3], tmp_path / "other")
    assert other[0]["log_likelihood"] != pytest.approx(rows[3]["log_likelihood"], abs=1e-3)


@pytest.mark.slow
def test_a_resumed_run_is_of_the_same_pictures_not_of_others_by_their_names(
    pipeline, gallery, tmp_path
):
    bulk(pipeline, gallery, tmp_path / "found")
    (gallery / NAMES[1]).write_bytes((gallery / NAMES[0]).read_bytes())
    with pytest.raises(ValueError, match=f"{NAMES[1]} is not the image that it was"):
        bulk(pipeline, gallery, tmp_path / "found", resume=True)


def test_files_and_folders_mix_in_the_order_given(pipeline, gallery, tmp_path):
    rows = bulk(pipeline, [gallery / "e.png", gallery / "deep"], tmp_path / "found")
    assert [Path(row["embedding"]).parent for row in rows] == [
        tmp_path / "found" / folder for folder in ("e", "a", "er/a")
    ]


@pytest.mark.slow
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
        (["e.png", "broken.png"], r"broken\.png: expected an image"),
        (["e.png", "nowhere.png"], r"nowhere\.png: expected an image"),
        (["e.png", "empty"], r"empty: expected images in the folder"),
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


UNUSABLE = {
    "size": ({"size": (15, 16)}, "size must be multiples of 2 pixels, got 15 x 16"),
    "memory": ({"size": (100000, 100000)}, "size must have at most .* pixels, got 100000"),
    "start": ({"start": " "}, "a prompt must have words"),
    "captioner": ({"start": "caption"}, "start 'caption' needs a captioner, got none"),
    "starts": ({"starts": "nowhere"}, "starts: expected a folder of learned starts, got nowhere"),
    "file": ({"start": "meta"}, r"meta\.safetensors: no such file"),
    "over": ({"over": "words"}, "over must be one of .* got 'words'"),
    "learned": ({"start": "meta", "over": "tokens"}, "start must be sentences over 'tokens'"),
    "words": ({"start": "meta", "words": True}, "words need a captioner or a start that is a"),
    "guidance": ({"guidance_scale": nan}, "guidance_scale must be finite and at least 0, got nan"),
    "range": (
        {"inversion": replace(SETTINGS.inversion, timestep_range=(0, 51))},
        "timestep_range must lie within 0 and 50, got 0 to 51",
    ),
}


@pytest.mark.parametrize(("changes", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_settings_that_cannot_be_used_are_an_error_before_a_picture_is_read(
    changes, message, pipeline, gallery, tmp_path, monkeypatch
):
    monkeypatch.setattr(sources, "open_image", lambda path: pytest.fail("read a picture"))
    with pytest.raises(ValueError, match=message):
        bulk(pipeline, gallery, tmp_path / "found", replace(SETTINGS, **changes))
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be from 0 to below .* got -1"),
    ],
)
def test_a_runs_own_settings_are_checked_when_they_are_made(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)


class Captioner:
    """Says of a picture how many it has seen."""

    def __init__(self) -> None:
        self.seen = 0

    def compose(self, images, top_k):
        first = self.seen
        self.seen += len(images)
        said = [" ".join(["red"] * number) for number in range(1 + first, 1 + self.seen)]
        return [[Caption(text, 0.0)] for text in said]


@pytest.mark.slow
def test_captions_are_asked_for_once_a_picture(pipeline, gallery, tmp_path):
    captioner, settings = Captioner(), replace(SETTINGS, start="caption", captioner="one")
    rows = bulk(pipeline, gallery, tmp_path / "found", settings, captioner=captioner)
    assert captioner.seen == len(rows) == len(NAMES)


@pytest.mark.slow
def test_captions_of_unequal_length_need_batches_of_one_over_token_vectors(
    pipeline, gallery, tmp_path
):
    settings = replace(SETTINGS, start="caption", captioner="one", over="token_vectors")
    with pytest.raises(ValueError, match="batch_size must be 1 for captions over 'token_vectors'"):
        bulk(pipeline, gallery, tmp_path / "found", settings, captioner=Captioner())
    assert not (tmp_path / "found").exists()
    settings = replace(settings, batch_size=1)
    rows = bulk(pipeline, gallery, tmp_path / "found", settings, captioner=Captioner())
    assert len(rows) == len(NAMES)


@pytest.mark.slow
def test_a_picture_is_decoded_once_to_be_checked_and_once_to_be_inverted(
    pipeline, gallery, tmp_path, monkeypatch
):
    decoded = []
    open_image = Image.open
    monkeypatch.setattr(
        Image,
        "open",
        lambda *arguments, **options: decoded.append(1) or open_image(*arguments, **options),
    )
    bulk(pipeline, gallery, tmp_path / "found")
    assert len(decoded) == 2 * len(NAMES)


def test_guidance_is_that_of_every_picture_of_the_strip(pipeline, gallery, tmp_path, monkeypatch):
    drawn = []
    generate = FrozenTextToImage.generate

    def watched(self, conditioning, seeds, size=None, guidance_scale=1.0, *more):
        drawn.append((len(seeds), guidance_scale))
        return generate(self, conditioning, seeds, size, guidance_scale, *more)

    monkeypatch.setattr(FrozenTextToImage, "generate", watched)
    settings = replace(SETTINGS, guidance_scale=2.5)
    bulk(pipeline, gallery / "b.png", tmp_path / "found", settings)
    # What is found, then the strip: the start. The snapshot at the end is what is found.
    assert drawn == [(1, 2.5), (1, 2.5)]


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
def test_a_run_killed_at_20_random_moments_ends_with_the_same_bytes(folder, gallery, tmp_path):
    log, moments, output = tmp_path / "log", Random(0), tmp_path / "found"
    resumed = partial(bulk_elsewhere, folder, gallery, output, resume=True)
    start_server()
    started = time.monotonic()
    assert fork(resumed, log=log) == 0, log.read_text()
    seconds = time.monotonic() - started
    expected = contents(output)
    kills = 0
    while kills < 20:
        shutil.rmtree(output)
        while fork(resumed, log=log, kill_after=seconds * moments.uniform(0.2, 0.8)) is None:
            kills += 1
        assert contents(output) == expected, log.read_text()
