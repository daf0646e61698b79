import json
import sys
from functools import partial

import pytest
import torch
from click.testing import Result
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from tiny_blip import save_blip
from tiny_pipelines import make
from typer.testing import CliRunner

from invcap.cli import app, main
from invcap.diffusion.families import load_model
from invcap.prompt_inversion import PromptInversionPipeline, save_prompt_embeds

FILES = {"embedding.safetensors", "history.json", "bounds.png", "strip.png", "result.json"}


def invcap(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def files(pictures, tmp_path):
    for name, picture in zip(("red", "green"), pictures, strict=False):
        picture.save(tmp_path / f"{name}.png")
    return [tmp_path / "red.png", tmp_path / "green.png"]


def test_score_prints_json_in_the_order_given(folder, files):
    prompts = ["a room", "a red square", "a green circle"]
    done = invcap("score", files[0], *prompts, "--model", folder, "--draws", 16, "--json")
    rows = json.loads(done.stdout)
    assert [row["prompt"] for row in rows] == prompts
    best = max(rows, key=lambda row: row["log_likelihood"])
    assert best["difference"] == best["difference_standard_error"] == 0
    for row in rows:
        expected = row["log_likelihood"] - best["log_likelihood"]
        assert row["difference"] == pytest.approx(expected, abs=1e-9)
        assert row["standard_error"] > 0


def test_score_prints_a_table(folder, files):
    done = invcap("score", files[0], "a room", "a red square", "--model", folder, "--draws", 4)
    assert [line.split("  ")[0].strip() for line in done.stdout.splitlines()] == [
        "prompt",
        "a room",
        "a red square",
    ]


def test_score_prints_the_likeliest_of_a_file_best_first(folder, pipeline, files):
    prompts = ["a room", "a red square", "a green circle", "a square", "a circle", "red"]
    listed = files[0].with_name("prompts.txt")
    listed.write_text("\n".join([*prompts, "", prompts[0]]))
    options = ("--model", folder, "--draws", 32, "--winners", 2, "--json")
    rows = json.loads(invcap("score", files[0], "--prompts", listed, *options).stdout)
    assert len(rows) == 2 and rows[0]["difference"] == 0 >= rows[1]["difference"]
    found = pipeline.log_likelihood(files[0], [row["prompt"] for row in rows], 32)
    assert [row["log_likelihood"] for row in rows] == pytest.approx(found.bound.tolist())
    assert (rows[1]["difference"], rows[1]["difference_standard_error"]) == pytest.approx(
        found.difference(1, 0)
    )


@pytest.mark.slow
def test_invert_searches_words_and_writes_them_beside_each_result(folder, files, tmp_path):
    listed = tmp_path / "sentences.txt"
    listed.write_text("a red square\na green circle\na red circle, a room\n")
    output, blip = tmp_path / "found", save_blip(tmp_path / "blip")
    rows = json.loads(
        invcap(
            *("invert", *files, "--output", output, "--model", folder, "--steps", 0, "--json"),
            *("--words", "--sentences", listed, "--budget", 300, "--cache", tmp_path / "cache"),
            *("--proposer", blip, "--proposer-prompt", "a red", "--write-txt"),
        ).stdout
    )
    for row, name in zip(rows, ("red", "green"), strict=True):
        assert (output / f"{name}.txt").read_text() == row["prompt"] + "\n"
        assert 0 < row["prompt_evaluations"] <= 300 < row["unet_evaluations"] + 64
    record = json.loads((output / "run.json").read_text())
    assert record["search"]["budget"] == 300 and record["proposer"] == f"{blip} a red"


@pytest.mark.slow
def test_invert_writes_a_folder_for_each_picture(folder, files, tmp_path):
    output = tmp_path / "inverted"
    done = invcap("invert", *files, "--output", output, "--model", folder, "--steps", 3, "--json")
    rows = json.loads(done.stdout)
    assert [row["picture"] for row in rows] == [str(file) for file in files]
    for row, name in zip(rows, ("red", "green"), strict=True):
        assert {path.name for path in (output / name).iterdir()} == FILES
        assert row["embedding"] == str(output / name / "embedding.safetensors")
        assert row["standard_error"] > 0 and row["seconds"] > 0
        assert row["unet_evaluations"] > 0 and row["steps"] <= 3
        history = json.loads((output / name / "history.json").read_text())
        assert row["log_likelihood"] == max(history["held_out"])
        assert Image.open(output / name / "strip.png").height == 128
    plain = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    embeds = load_file(rows[0]["embedding"])["prompt_embeds"]
    assert plain(prompt_embeds=embeds, num_inference_steps=1).images[0].size == (16, 16)

    done = invcap("invert", *files, "--output", output, "--model", folder, code=1)
    assert "holds an inversion; resume it" in str(done.exception)
    done = invcap(
        *("invert", *files, "--output", output, "--model", folder, "--steps", 3),
        *("--resume", "--json"),
    )
    assert json.loads(done.stdout) == rows


@pytest.mark.slow
def test_invert_starts_at_the_given_start_and_finds_words(folder, pipeline, files, tmp_path):
    begun = pipeline.model.encode_prompts(["a red square"]).tensors["prompt_embeds"][0]
    save_prompt_embeds(tmp_path / "starts" / "meta.safetensors", begun, pipeline)
    options = ("--model", folder, "--steps", 0, "--json")
    meta = ("--start", "meta", "--starts", tmp_path / "starts")
    (row,) = json.loads(
        invcap("invert", files[0], "--output", tmp_path / "meta", *meta, *options).stdout
    )
    assert load_file(row["embedding"])["prompt_embeds"][0].equal(begun) and "prompt" not in row
    (row,) = json.loads(
        invcap("invert", files[0], "--output", tmp_path / "words", "--words", *options).stdout
    )
    assert row["prompt"] == "a room"
    assert row["prompt_log_likelihood"] == pytest.approx(row["log_likelihood"], abs=1e-6)
    done = invcap("invert", files[0], "--output", tmp_path / "no", "--start", "caption", code=1)
    assert "needs a captioner" in str(done.exception) and not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score", "nowhere.png", "a room"), "nowhere.png"),
        (("score", "text.png", "a room"), "text.png"),
        (("score", "red.png", ""), "a prompt must have words"),
        (("score", "red.png", "red " * 100), "a prompt has at most 77 tokens"),
        (("score", "red.png", "a room", "--dtype", "int8"), "dtype must be one of"),
        (("score", "red.png", "a room", "--draws", "1"), "draws must be at least 2, got 1"),
        (("score", "red.png"), "expected either PROMPTS or --prompts FILE"),
        (("score", "red.png", "--prompts", "none.txt"), "none.txt: expected a text file"),
        (("score", "red.png", "--prompts", "empty.txt"), "empty.txt: expected a sentence on each"),
        (("score", "red.png", "--prompts", "some.txt", "--winners", "0"), "finalists must be at"),
        (("invert", "red.png", "--output", "o", "--write-txt"), "write_txt needs words, got"),
        (("invert", "red.png", "--output", "o", "--data", "shapes"), "--data is for --words"),
        (("invert", "red.png", "--output", "o", "--budget", "9"), "--budget is for a search"),
        (("invert", "red.png", "--output", "o", "--proposer-prompt", "a"), "needs --proposer"),
        (
            ("invert", "red.png", "--output", "o", "--words", "--proposer", "."),
            "proposer: . is neither a folder nor",
        ),
        (("invert", "nowhere.png", "--output", "o"), "nowhere.png"),
        (("invert", "text.png", "--output", "o"), "text.png"),
        (("invert", "red.png", "red.png", "--output", "o"), "images must differ in name"),
        (("invert", "red.png", "--output", "o", "--start", ""), "a prompt must have words"),
        (("invert", "red.png", "--output", "o", "--batch-size", "0"), "batch_size must be at"),
        (("invert", "red.png", "--output", "o", "--size", "15x16"), "size must be multiples of 2"),
        (("invert", "red.png", "--output", "o", "--weighting", "x"), "weighting must be one of"),
        (("invert", "red.png", "--output", "o", "--model", "."), "expected a diffusers pipeline"),
        (("invert", "red.png", "--output", "o", "--starts", "none"), "starts: expected a folder"),
        (("invert", "red.png", "--output", "o", "--guidance-scale", "nan"), "guidance_scale must"),
        (("invert", "red.png", "--output", "o", "--average", "nan"), "average must be from 0 to"),
        (("invert", "red.png", "--output", "o", "--draws", "0"), "draws must be at least 1, got"),
        (("invert", "red.png", "--output", "o", "--seed", "-1"), "seed must be from 0 to below"),
        (("invert", "red.png", "--output", "o", "--size", "99998x99998"), "size must have at most"),
        (("invert", "red.png", "--output", "o", "--pooled"), "needs a model with a pooled embeddi"),
        (
            ("invert", "red.png", "--output", "o", "--pooled", "--token-vectors"),
            "--pooled cannot be used with --token-vectors",
        ),
        (("invert", "red.png", "--output", "o", "--offload", "--device", "cpu"), "--offload needs"),
        (
            ("score", "red.png", "a room", "--offload", "--device", "cpu"),
            "--offload needs a CUDA device, got cpu",
        ),
        *(
            (("score", "red.png", "a room", option, "--device", "cpu"), f"{option} needs a CUDA")
            for option in ("--group-offload", "--four-bit")
        ),
        (
            ("score", "red.png", "a room", "--compute-dtype", "int8"),
            "compute_dtype must be one of float32, bfloat16, float16, got 'int8'",
        ),
        (("invert", "half.png", "--output", "o"), "half.png: expected an image: "),
        (("score", "half.png", "a room"), "half.png: cannot decode the image: "),
        *(
            (
                ("invert", "red.png", "--output", "o", "--learning-rate", rate),
                f"learning_rate must be finite and above 0, got {float(rate)}",
            )
            for rate in ("0", "-1", "nan", "inf")
        ),
    ],
)
def test_a_users_error_is_one_line_and_leaves_nothing(
    arguments, message, folder, pipeline, files, monkeypatch, capsys
):
    load = PromptInversionPipeline.from_pretrained
    monkeypatch.setattr(
        PromptInversionPipeline,
        "from_pretrained",
        lambda name, **options: pipeline if name == str(folder) else load(name, **options),
    )
    here = files[0].parent
    (here / "text.png").write_text("not a picture")
    (here / "some.txt").write_text("a room")
    (here / "empty.txt").write_text("\n")
    (here / "half.png").write_bytes((here / "red.png").read_bytes()[:-30])
    monkeypatch.chdir(here)
    model = () if "--model" in arguments else ("--model", str(folder))
    monkeypatch.setattr(sys, "argv", ["invcap", *arguments, *model])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    assert stop.value.code == 1 and not printed.out
    assert printed.err.rpartition("error: ")[2].count("\n") == 1
    assert message in printed.err.rpartition("error: ")[2]
    assert not (here / "o").exists()


def test_options_of_memory_are_given_to_the_model(folder, pipeline, files, monkeypatch):
    device, calls = torch.device("cuda"), []
    monkeypatch.setattr("invcap.training.devices.resolve_device", lambda name: device)

    def load(name, **options):
        calls.append(options)
        return pipeline

    monkeypatch.setattr(PromptInversionPipeline, "from_pretrained", load)
    for method in ("to", "enable_offload", "enable_group_offload"):
        place = partial(lambda method, where: calls.append((method, where)) or pipeline, method)
        monkeypatch.setattr(pipeline, method, place)
    given = ("score", files[0], "a room", "--model", folder, "--draws", 2, "--dtype", "bfloat16")
    invcap(*given, "--four-bit", "--offload")
    invcap(*given, "--compute-dtype", "float32", "--group-offload")
    whole = {"dtype": torch.bfloat16, "four_bit": False, "compute_dtype": torch.float32}
    assert calls == [
        {"dtype": torch.bfloat16, "four_bit": True},
        ("enable_offload", device),
        whole,
        ("enable_group_offload", device),
    ]
    for other in ("--offload", "--four-bit"):
        done = invcap(*given, "--group-offload", other, code=1)
        assert str(done.exception) == f"--group-offload cannot be used with {other}"
    assert len(calls) == 4


@pytest.mark.slow
def test_invert_of_two_text_encoders_writes_what_each_reads(files, tmp_path):
    folder, options = tmp_path / "xl", ("--steps", 6, "--size", "16x16", "--json")
    make("StableDiffusionXL").save_pretrained(folder)
    for name, flag in (("tokens", "--token-vectors"), ("pooled", "--pooled")):
        invcap("invert", files[0], "--output", tmp_path / name, "--model", folder, flag, *options)
    vectors = load_file(tmp_path / "tokens" / "red" / "tokens.safetensors")
    assert {name: each.shape[1] for name, each in vectors.items()} == {"clip_l": 8, "clip_g": 12}
    found = load_file(tmp_path / "pooled" / "red" / "embedding.safetensors")
    begun = load_model(folder).encode_prompts(["a room"]).tensors
    for name in ("prompt_embeds", "pooled_prompt_embeds"):
        assert found[name].shape == begun[name].shape
        assert not found[name].equal(begun[name])
