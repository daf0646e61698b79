"""The comparison of starts and methods, on random weights and at a tiny size."""

import json
from dataclasses import replace

import pytest
import torch
from random_pipeline import make_pipeline

from invcap.captioning import Caption
from invcap.data.shapes import Scene
from invcap.diffusion.families import frozen
from invcap.diffusion.noise_samples import draw_samples
from invcap.files import read_tensors
from invcap.prompt_inversion.objective import bound_terms
from invcap.prompt_inversion.starts import LearnedStarts

SCENES = [
    Scene("large", "red", "square", "in the center", "black"),
    Scene("small", "blue", "star", "on the left", "yellow"),
]
PROMPTS = ["a red square", "a green circle"]


class Captioner:
    def __init__(self, candidates=PROMPTS) -> None:
        self.candidates = candidates

    def caption(self, images):
        return [[Caption(PROMPTS[0], 0.0)] for _ in images]

    def compose(self, images, top_k):
        return [[Caption(prompt, 0.0) for prompt in PROMPTS] for _ in images]


@pytest.fixture(scope="module")
def few(script):
    few = script("few_steps")
    steps = replace(few.ROOM, steps=4, draws=2, bank=8, held_out=8, evaluate_every=2)
    methods = {
        "own caption": few.own_caption,
        "paper's loop": few.papers_loop,
        "a room": few.inverted("a room", steps),
        "caption": few.inverted("caption", steps=2),
        "captioned": few.captioned,
        "composed": few.composed,
        "tokens": few.inverted("a room", steps, "tokens"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few, "COUNT", len(SCENES))
        patch.setattr(few, "CHUNK", len(SCENES))
        patch.setattr(few, "PAPER_STEPS", 20)
        patch.setattr(few, "METHODS", {name: (m, len(SCENES)) for name, m in methods.items()})
        yield few


@pytest.fixture(scope="module")
def problem(few, pipeline):
    return few.Problem(pipeline, Captioner(), SCENES, [0, 1])


@pytest.mark.slow
def test_every_method_is_judged_and_summed_up(few, problem, tmp_path):
    results = {}
    for name, (method, _) in few.METHODS.items():
        few.run_chunk(problem, method, tmp_path / f"{name}.safetensors")
        results[name] = few.summary([tmp_path / f"{name}.safetensors"], SCENES)
    assert results["paper's loop"]["at"] == list(range(0, 21, 2))
    assert results["a room"]["gradients"] == 8 and results["a room"]["at"] == [0, 4, 8]
    assert results["captioned"]["prompts"] == ["a red square"] * 2
    assert results["composed"]["forwards"] > 0 == results["composed"]["gradients"]
    assert results["tokens"]["gradients"] == 8 and len(results["tokens"]["prompts"]) == 2
    lines = few.table(results).splitlines()
    assert len(lines) == 2 + len(results) and all(line.count("|") == 13 for line in lines)
    reached = few.reach(results)
    assert set(reached) == {"paper's loop", "a room", "caption"}
    assert reached["paper's loop"]["reached"] == 1.0
    assert json.dumps(results) and few.curves(results).axes


@pytest.mark.slow
def test_what_is_judged_is_the_bound_on_noise_samples_of_its_own(few, problem, tmp_path):
    few.run_chunk(problem, few.own_caption, tmp_path / "one.safetensors")
    found, _ = read_tensors(tmp_path / "one.safetensors")
    model = problem.pipeline.model
    for index, scene in enumerate(SCENES):
        one = slice(index, index + 1)
        latents = problem.latents[one]
        generator = torch.Generator().manual_seed(few.COUNT + index)
        samples = draw_samples(
            model.schedule, few.JUDGED_DRAWS, tuple(latents.shape[1:]), generator
        )
        prompt = model.encode_prompts([scene.caption()])
        expected = bound_terms(model, latents, prompt, samples.expand(1)).mean()
        torch.testing.assert_close(found["bound"][index], expected)


def test_evaluations_to_the_papers_bound_are_counted_picture_by_picture(few):
    def result(at, *rows):
        return {"at": at, "held_out": list(rows), "pictures": 3}

    results = {
        "paper's loop": result([0, 10, 20], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [2.0, 2.0, 3.0]),
        "ours": result([0, 1, 2], [0.0, 2.5, 0.0], [2.0, 3.0, 0.0], [2.0, 3.0, 0.0]),
    }
    found = few.reach(results)["ours"]
    assert found["reached"] == pytest.approx(2 / 3) and found["median"] == 1.0
    assert found["share_of_the_papers"] == 1 / few.PAPER_STEPS


def test_what_is_found_is_kept_apart_for_each_model_captioner_and_starts(
    few, pipeline, monkeypatch, tmp_path
):
    captions = ["a red square"]
    starts = tmp_path / "starts"
    starts.mkdir()
    (tmp_path / "model.safetensors").write_text("weights")
    loaded = pipeline
    monkeypatch.setattr(few, "held_out_scenes", lambda count, seed: SCENES)
    monkeypatch.setattr(few.PromptInversionPipeline, "from_pretrained", lambda name: loaded)
    monkeypatch.setattr(
        few.InvertibleCaptioner, "from_pretrained", lambda folder: Captioner(captions)
    )
    monkeypatch.setattr(
        few.PromptInversionPipeline,
        "learned_starts",
        lambda self: LearnedStarts(self.model, starts),
    )

    def work():
        (tmp_path / "captions.json").write_text(json.dumps(captions))
        return few.Bench(tmp_path, tmp_path / "work").work

    folders = [work()]
    assert work() == folders[0]
    captions.append("a blue star")
    folders.append(work())
    (starts / "amortised.safetensors").write_text("weights")
    folders.append(work())
    loaded = few.PromptInversionPipeline(frozen(make_pipeline(seed=1)))
    folders.append(work())
    assert len(set(folders)) == 4
    captions.append(SCENES[0].caption())
    with pytest.raises(ValueError, match="must not have seen the pictures, but has 1"):
        work()
