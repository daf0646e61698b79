"""The comparison of starts and methods, on random weights and at a tiny size."""

import json
from dataclasses import replace

import pytest
import torch

from invcap.captioning.model import Caption
from invcap.data.shapes import Scene
from invcap.diffusion.noise_samples import draw_samples
from invcap.files import read_tensors

SCENES = [
    Scene("large", "red", "square", "in the center", "black"),
    Scene("small", "blue", "star", "on the left", "yellow"),
]


class Captioner:
    def caption(self, images):
        return [[Caption("a red square", 0.0)] for _ in images]

    def compose(self, images, top_k):
        return [[Caption("a red square", 0.0), Caption("a green circle", 0.0)] for _ in images]


@pytest.fixture(scope="module")
def few(scripts):
    few = scripts("paper_loop", "search_tokens", "few_steps")
    few.COUNT = few.CHUNK = len(SCENES)
    few.PAPER_STEPS = 20
    return few


@pytest.fixture(scope="module")
def problem(few, pipeline):
    return few.Problem(pipeline, Captioner(), SCENES, [0, 1])


def methods(few):
    steps = replace(few.ROOM, steps=4, draws=2, bank=8, held_out=8, evaluate_every=2)
    return {
        "own caption": few.own_caption,
        "paper's loop": few.papers_loop,
        "a room": few.inverted("a room", steps),
        "caption": few.near("caption", 2),
        "captioned": few.captioned,
        "composed": few.composed,
        "tokens": few.over_tokens("tokens", steps),
    }


def test_every_method_is_judged_and_summed_up(few, problem, tmp_path):
    few.METHODS = {name: (method, len(SCENES)) for name, method in methods(few).items()}
    for name, method in methods(few).items():
        few.run_chunk(problem, method, few._paths(tmp_path, name)[0])
    results = few.summary(tmp_path, list(methods(few)), SCENES)
    assert results["paper's loop"]["at"] == list(range(0, 21, 2))
    assert results["a room"]["gradients"] == 8 and results["a room"]["at"] == [0, 4, 8]
    assert results["captioned"]["prompts"] == ["a red square"] * 2
    assert results["composed"]["forwards"] > 0 == results["composed"]["gradients"]
    lines = few.table(results).splitlines()
    assert len(lines) == 2 + len(results) and all(line.count("|") == 13 for line in lines)
    reached = few.reach(results)
    assert set(reached) == {"paper's loop", "a room", "caption"}
    assert reached["paper's loop"]["reached"] == 1.0
    assert json.dumps(results) and few.curves(results).axes


def test_what_is_judged_is_the_bound_on_a_bank_of_its_own(few, problem, tmp_path):
    few.run_chunk(problem, few.own_caption, tmp_path / "one.safetensors")
    found, _ = read_tensors(tmp_path / "one.safetensors")
    pipeline = problem.pipeline
    for index, (scene, picture) in enumerate(zip(SCENES, problem.pictures, strict=True)):
        latents = pipeline.encode_images(picture)[0]
        generator = torch.Generator().manual_seed(few.COUNT + index)
        bank = draw_samples(pipeline.schedule, few.JUDGED_DRAWS, tuple(latents.shape), generator)
        hidden = pipeline.encode_prompts([scene.caption()])[0]
        assert found["bound"][index] == pipeline.bound_terms(latents, hidden, bank).mean()


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
