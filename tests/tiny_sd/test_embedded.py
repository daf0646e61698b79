"""The embedded models as they lie in `models/`."""

from pathlib import Path
from random import Random

import pytest

from invcap.data import split_by_group
from invcap.data.shapes import Scene, draw, jitter_of, load_shapes, scenes
from invcap.diffusion.families import EMBEDDED, embedded, load_model
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.tiny_sd.evaluate import accuracies, draw_scenes

EVERY = list(scenes())
FACTORS = ("colour", "shape", "place", "background")


@pytest.fixture(scope="module")
def held_out() -> list[Scene]:
    _, held_out = split_by_group(load_shapes().examples, 0.1, seed=0)
    return [EVERY[i] for i in Random(0).sample(held_out, 40)]


@pytest.fixture(scope="module", params=EMBEDDED)
def folder(request) -> Path:
    return embedded(request.param)


@pytest.fixture(scope="module")
def pipeline(folder) -> PromptInversionPipeline:
    pipeline = PromptInversionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawing(scene: Scene):
    return draw(scene, jitter=jitter_of(scene, 0))


def test_it_is_small_and_safe_to_load(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}


@pytest.mark.slow
def test_plain_diffusers_draws_held_out_captions(folder, held_out):
    plain = load_model(folder).pipeline
    plain.set_progress_bar_config(disable=True)
    drawn = draw_scenes(plain, held_out, guidance_scale=3.0, steps=25, seed=1)
    found = accuracies(drawn, held_out)
    assert min(found[factor] for factor in FACTORS) >= 0.85, found


@pytest.mark.slow
def test_held_out_images_are_likeliest_under_their_own_captions(pipeline, held_out):
    for scene, other in zip(held_out[:5], held_out[5:10], strict=True):
        prompts = [other.caption(), scene.caption()]
        found = pipeline.log_likelihood(drawing(scene), prompts, draws=64)
        difference, error = found.difference(1, 0)
        assert difference > 2 * error, (scene, other)


@pytest.mark.slow
@pytest.mark.long
def test_a_room_becomes_the_image(pipeline, held_out):
    settings = InversionSettings(steps=100, patience=None)
    found = pipeline.invert([drawing(scene) for scene in held_out[:6]], "a room", settings)
    own = [
        pipeline.log_likelihood(drawing(scene), ["a room", scene.caption()], draws=64)
        for scene in held_out[:6]
    ]
    above = []
    for history, likelihood in zip(found.histories, own, strict=True):
        gain, error = likelihood.difference(1, 0)
        rise = history.held_out[-1] - history.held_out[0]
        assert rise > 0
        above.append(rise > gain + 2 * error)
    assert sum(above) >= 5  # one begins near its maximum and climbs slowly
    seen = accuracies(found.images, held_out[:6])
    assert min(seen[factor] for factor in ("colour", "shape", "background")) >= 5 / 6, seen
    assert seen["place"] >= 1 / 2, seen  # the last to be found: nearly all in 300 steps
