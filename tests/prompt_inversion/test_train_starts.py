"""What `invcap train-starts` does, from images and captions to starts that an inversion takes."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from forks import fork_two, run_forked
from kills import KilledError, kill_at
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from two_tensors import TwoTensorPipeline, TwoTensors

from invcap.data import load_examples, split_by_group
from invcap.data.settings import DataSettings
from invcap.data.shapes import draw, scenes
from invcap.diffusion.families import frozen, load_model
from invcap.diffusion.model import FrozenTextToImage
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.prompt_inversion.meta import MetaSettings
from invcap.prompt_inversion.train_amortised import AmortisedSettings
from invcap.prompt_inversion.train_starts import FILES, train_starts
from invcap.training.devices import start_processes

AMORTISED = AmortisedSettings(caption_steps=4, steps=4, batch_size=6, checkpoint_every=2, seed=3)
INNER = InversionSettings(steps=2, draws=2, bank=4, held_out=2, learning_rate=0.1)
META = MetaSettings(rounds=3, images=2, inner=INNER, seed=3)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataSettings:
    return write_data(tmp_path_factory.mktemp("data") / "images", str)


def write_data(folder: Path, caption_of: Callable[[str], str]) -> DataSettings:
    folder.mkdir()
    rows = []
    for number, scene in enumerate(list(scenes())[::600]):
        draw(scene, 16).save(folder / f"{number:02}.png")
        rows.append({"file_name": f"{number:02}.png", "text": caption_of(scene.caption())})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return DataSettings(str(folder), size=(16, 16), held_out=0.3)


@pytest.fixture
def model(networks: DiffusionPipeline) -> FrozenTextToImage:
    return frozen(networks)


@pytest.fixture(scope="module")
def learned(networks, data, accelerator, tmp_path_factory) -> dict[str, Tensor]:
    """What one quiet run learns."""
    folder = tmp_path_factory.mktemp("quiet")
    train_starts(
        frozen(networks), data, AMORTISED, META, folder / "starts", folder / "work", accelerator
    )
    return read(folder / "starts")


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors in a folder of starts."""
    assert {path.name for path in folder.iterdir()} == set(FILES)
    return {f"{file}/{name}": t for file in FILES for name, t in load_file(folder / file).items()}


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


@pytest.mark.slow
def test_inversions_begin_at_what_was_learned(model, data, accelerator, pictures, tmp_path):
    files = train_starts(
        model, data, AMORTISED, META, tmp_path / "starts", tmp_path / "work", accelerator
    )
    assert files == [tmp_path / "starts" / name for name in FILES]
    pipeline = PromptInversionPipeline(model)
    still = InversionSettings(steps=0, held_out=4)
    begun = {
        start: pipeline.invert(
            pictures, start, still, starts=tmp_path / "starts", num_inference_steps=1
        ).prompt_embeds
        for start in ("amortised", "meta")
    }
    meta = load_file(files[2])["prompt_embeds"]
    # Optimised along the learned axes: there and back.
    expected = meta.expand_as(begun["meta"])
    torch.testing.assert_close(begun["meta"], expected, rtol=1e-5, atol=1e-5)
    room = model.encode_prompts(["a room"]).tensors["prompt_embeds"]
    assert not torch.equal(meta, room)
    amortised = begun["amortised"]
    assert amortised.isfinite().all() and not torch.equal(amortised[0], amortised[1])


def kill_in(model: FrozenTextToImage, monkeypatch: pytest.MonkeyPatch, call: int) -> list[str]:
    """Kills at a call of one of the model's networks; returns the calls, as they are made."""
    kill, calls = kill_at(call), []
    for name in ("encode_pixels", "encode_prompts", "predict_noise"):
        real = getattr(model, name)

        def watched(*arguments: object, real: Callable = real, name: str = name) -> object:
            calls.append(name)
            kill()
            return real(*arguments)

        monkeypatch.setattr(model, name, watched)
    return calls


@pytest.fixture
def run(networks, data, accelerator, monkeypatch, tmp_path):
    """Learns starts in folders of a name, until a call of the model, and returns the calls."""

    def until(name: str, call: int = 0) -> list[str]:
        model = frozen(networks)
        with monkeypatch.context() as patch:
            calls = kill_in(model, patch, call)
            where = (tmp_path / f"{name} starts", tmp_path / name)
            try:
                train_starts(model, data, AMORTISED, META, *where, accelerator)
            except KilledError:
                assert call
        return calls

    return until


@pytest.mark.slow
def test_a_run_killed_at_any_call_of_the_model_resumes_to_the_same_starts(run, learned, tmp_path):
    calls = run("whole")
    assert set(calls) == {"encode_pixels", "encode_prompts", "predict_noise"}
    for call in range(1, len(calls) + 1, 4):
        run(str(call), call)
        run(str(call))
        assert differences(learned, read(tmp_path / f"{call} starts")) == [], call


@pytest.mark.slow
def test_a_run_killed_again_and_again_resumes_to_the_same_starts(run, learned, tmp_path):
    whole = len(run("whole"))
    for call in range(2, whole + 6, 6):
        calls = run("killed", call)
    assert len(calls) < whole
    assert differences(learned, read(tmp_path / "killed starts")) == []


@pytest.mark.slow
def test_models_share_a_work_folder(networks, other_folder, data, accelerator, learned, tmp_path):
    work = tmp_path / "work"
    found = []
    for name, model in (("one", frozen(networks)), ("other", load_model(other_folder))):
        train_starts(model, data, AMORTISED, META, tmp_path / name, work, accelerator)
        found.append(read(tmp_path / name))
    assert differences(learned, found[0]) == []
    assert len(differences(*found)) == len(found[0])
    alone = load_model(other_folder)
    train_starts(alone, data, AMORTISED, META, tmp_path / "3", tmp_path / "alone", accelerator)
    assert differences(found[1], read(tmp_path / "3")) == []


@pytest.mark.slow
def test_a_change_of_any_network_or_of_the_schedule_is_another_model(
    own_pipeline, data, accelerator, monkeypatch, tmp_path
):
    model, work = own_pipeline.model, tmp_path / "work"
    runs = []

    def count_runs() -> int:
        train_starts(model, data, AMORTISED, META, tmp_path / str(len(runs)), work, accelerator)
        runs.append(len([*work.glob("starts-*")]))
        return runs[-1]

    assert count_runs() == 1
    with torch.no_grad():
        model.pipeline.text_encoder.get_input_embeddings().weight[0, 0] += 1
    assert count_runs() == 2
    model.pipeline.vae.register_to_config(scaling_factor=0.5)
    assert count_runs() == 3
    schedule = type(model.schedule)(model.schedule.alphas_cumprod, "v_prediction")
    monkeypatch.setattr(model, "schedule", schedule)
    assert count_runs() == 4


def test_a_model_whose_prompts_are_two_tensors_learns_starts(accelerator, tmp_path):
    model = TwoTensors(TwoTensorPipeline())
    data = write_data(tmp_path / "images", lambda text: text.split()[1])
    data = replace(data, size=model.size)
    train_starts(model, data, AMORTISED, META, tmp_path / "a", tmp_path / "work", accelerator)
    found = read(tmp_path / "a")
    assert found["meta.safetensors/prompt_embeds"].shape == (1, 9, 6)
    assert found["meta.safetensors/pooled_prompt_embeds"].shape == (1, 3)
    assert found["amortised.safetensors/mean"].shape == (9, 6)


@pytest.mark.slow
def test_held_out_images_take_no_part(model, data, accelerator, learned, tmp_path):
    _, held_out = split_by_group(load_examples(data.data).examples, data.held_out, data.seed)
    changed = tmp_path / "images"
    shutil.copytree(data.data, changed)
    rows = [json.loads(row) for row in (changed / "metadata.jsonl").read_text().splitlines()]
    assert 0 < len(held_out) < len(rows)
    for number in held_out:
        Image.new("RGB", (16, 16), (number, 255, 0)).save(changed / rows[number]["file_name"])
        rows[number]["text"] = "a room"
    (changed / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = DataSettings(str(changed), size=(16, 16), held_out=0.3)
    where = (tmp_path / "starts", tmp_path / "work")
    train_starts(model, settings, AMORTISED, META, *where, accelerator)
    assert differences(learned, read(tmp_path / "starts")) == []


@pytest.mark.slow
def test_captions_that_the_model_cannot_read_are_skipped(model, accelerator, tmp_path, caplog):
    long = " ".join(["zebra"] * 90)
    data = write_data(tmp_path / "images", lambda text: long if "circle" in text else text)
    where = (tmp_path / "starts", tmp_path / "work")
    train_starts(model, data, AMORTISED, META, *where, accelerator)
    assert "captions, such as: a prompt has at most 77 tokens" in caplog.text
    assert read(tmp_path / "starts")
    same = write_data(tmp_path / "same", lambda text: "a room")
    with pytest.raises(ValueError, match=r"same: expected captions that differ, got \{'a room'\}"):
        train_starts(model, same, AMORTISED, META, tmp_path / "b", tmp_path / "work", accelerator)


def test_what_cannot_be_used_is_named_before_data_is_read(model, accelerator, tmp_path):
    def run(output: Path, data: DataSettings, settings: AmortisedSettings = AMORTISED) -> None:
        train_starts(model, data, settings, META, output, tmp_path / "work", accelerator)

    data = DataSettings(str(tmp_path / "nowhere"), size=(16, 16))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: expected a folder for the starts, got a file"):
        run(tmp_path / "file", data)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / FILES[1]).touch()
    with pytest.raises(ValueError, match="full: holds starts already; give another folder"):
        run(tmp_path / "full", data)
    with pytest.raises(ValueError, match="size must be multiples of 2 pixels, got 15 x 16"):
        run(tmp_path / "a", DataSettings(str(tmp_path / "nowhere"), size=(15, 16)))
    with pytest.raises(ValueError, match="batch_size must be at least 7, processes x gradient_"):
        run(tmp_path / "a", data, AmortisedSettings(batch_size=6, gradient_accumulation=7))
    with pytest.raises(ValueError, match="nowhere: no such folder or file"):
        run(tmp_path / "a", data)
    assert not (tmp_path / "a").exists() and not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: AmortisedSettings(steps=0), "steps must be at least 1, got 0"),
        (lambda: AmortisedSettings(caption_steps=0), "caption_steps must be at least 1, got 0"),
        (lambda: AmortisedSettings(batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: AmortisedSettings(mean_rate=0.0), "mean_rate must be finite and above 0, got 0"),
        (
            lambda: AmortisedSettings(basis_rate=float("nan")),
            "basis_rate must be finite and above 0, got nan",
        ),
        (
            lambda: AmortisedSettings(network_rate=float("inf")),
            "network_rate must be finite and above 0, got inf",
        ),
        (lambda: AmortisedSettings(seed=2**40), "seed must be from"),
        (lambda: MetaSettings(rounds=0), "rounds must be at least 1, got 0"),
        (lambda: MetaSettings(images=0), "images must be at least 1, got 0"),
        (lambda: MetaSettings(rate=1.5), "rate must be above 0 and at most 1, got 1.5"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        settings()


@pytest.mark.slow
def test_data_that_changed_is_not_mixed_with_what_was_begun(model, accelerator, tmp_path):
    data = write_data(tmp_path / "images", str)

    def run() -> None:
        train_starts(model, data, AMORTISED, META, tmp_path / "a", tmp_path / "work", accelerator)

    run()
    run()
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "00.png")
    with pytest.raises(ValueError, match=r"untrained.safetensors: cannot resume: data differs"):
        run()


def learn_as_one_of_two(folder: Path, data: DataSettings, output: Path) -> None:
    accelerator = start_processes("cpu")
    assert accelerator.num_processes == 2
    where = (output / "starts", output / "work")
    train_starts(load_model(folder), data, AMORTISED, META, *where, accelerator)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(folder, data, learned, tmp_path):
    codes = fork_two(learn_as_one_of_two, folder, data, tmp_path, log=tmp_path / "log")
    assert codes == [0, 0], (tmp_path / "log").read_text()
    found = read(tmp_path / "starts")
    axes = f"{FILES[1]}/features"
    for name in learned.keys() - {axes}:  # in half precision
        value, other = learned[name].float(), found[name].float()
        assert torch.dist(value, other) <= 1e-3 * value.norm(), name
    assert (learned[axes].T @ found[axes]).diagonal().abs().min() > 0.99


@pytest.mark.slow
def test_the_command_learns_starts_and_lists_their_files(folder, data, tmp_path):
    code = run_forked(
        "train-starts",
        *("--model", folder, "--data", data.data, "--held-out", 0.3),
        *("--output", tmp_path / "starts", "--work", tmp_path / "work"),
        *("--caption-steps", 2, "--steps", 2, "--batch-size", 4, "--rounds", 1, "--json"),
        log=tmp_path / "log",
        output=tmp_path / "out",
    )
    assert code == 0, (tmp_path / "log").read_text()
    (row,) = json.loads((tmp_path / "out").read_text())
    assert row["files"] == [str(tmp_path / "starts" / name) for name in FILES]
    assert all(Path(file).is_file() for file in row["files"])


@pytest.mark.slow
@pytest.mark.long
def test_starts_of_stable_diffusions_width_are_learned_in_12_gb():
    # Steps that Muon leaves as they are, and fewer images for axes, take less time. Muon's own
    # memory is a few matrices of one layer.
    script = (
        "import start_memory, invcap.training.muon, invcap.prompt_inversion.train_starts as starts;"
        "invcap.training.muon.ITERATIONS, starts.AXES_OF = 0, 32; start_memory.main(2048, 1)"
    )
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=benchmarks, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    peak = float(re.search(r"peak resident memory: (\S+) GB", done.stdout)[1])
    assert 1 < peak < 12  # 3.2 measured
