"""The embedded tiny-sd as it lies in `models/`."""

from random import Random

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from invcap.data import split_by_group
from invcap.data.shapes import Scene, draw, load_shapes, scenes
from invcap.diffusion.families import tiny_sd
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.tiny_sd.evaluate import accuracies, draw_scenes

EVERY = list(scenes())
FACTORS = ("colour", "shape", "place", "background")


@pytest.fixture(scope="module")
def held_out() -> list[Scene]:
    _, held_out = split_by_group(load_shapes().examples, 0.1, seed=0)
    return [EVERY[i] for i in Random(0).sample(held_out, 40)]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.stack([np.asarray(draw(scene)) for scene in EVERY])


@pytest.fixture(scope="module")
def pipeline() -> PromptInversionPipeline:
    pipeline = PromptInversionPipeline.from_pretrained()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_it_is_small_and_safe_to_load():
    files = [path for path in tiny_sd().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}


@pytest.mark.slow
def test_plain_diffusers_draws_held_out_captions(held_out, pixels):
    plain = StableDiffusionPipeline.from_pretrained(tiny_sd())
    plain.set_progress_bar_config(disable=True)
    drawn = draw_scenes(plain, held_out, guidance_scale=2.0, steps=25, seed=1)
    found = accuracies(drawn, held_out, pixels, EVERY)
    assert min(found[factor] for factor in FACTORS) >= 0.85, found


@pytest.mark.slow
def test_held_out_images_are_likeliest_under_their_own_captions(pipeline, held_out):
    for scene, other in zip(held_out[:5], held_out[5:10], strict=True):
        found = pipeline.log_likelihood(draw(scene), [other.caption(), scene.caption()], draws=64)
        difference, error = found.difference(1, 0)
        assert difference > 2 * error, (scene, other)


@pytest.mark.slow
@pytest.mark.long
def test_a_room_becomes_the_image(pipeline, held_out, pixels):
    settings = InversionSettings(steps=100, patience=None)
    found = pipeline.invert([draw(scene) for scene in held_out[:6]], "a room", settings)
    own = [
        pipeline.log_likelihood(draw(scene), ["a room", scene.caption()], draws=64).difference(1, 0)
        for scene in held_out[:6]
    ]
    for history, (gain, error) in zip(found.histories, own, strict=True):
        assert history.held_out[-1] - history.held_out[0] > gain + 2 * error
    drawn = np.stack([np.asarray(image) for image in found.images])
    seen = accuracies(drawn, held_out[:6], pixels, EVERY)
    assert min(seen[factor] for factor in ("colour", "shape", "background")) >= 5 / 6, seen
    assert seen["place"] >= 1 / 2, seen  # the last to be found: nearly all in 300 steps
