from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from PIL import Image
from random_pipeline import make_pipeline

from invcap.data.shapes import Scene, draw
from invcap.diffusion.families import frozen, load_model
from invcap.prompt_inversion import PromptInversionPipeline


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "stable-diffusion"
    make_pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "other"
    make_pipeline(seed=1).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def networks(folder) -> DiffusionPipeline:
    return load_model(folder).pipeline


@pytest.fixture
def pipeline(networks) -> PromptInversionPipeline:
    """A pipeline of networks that all tests share; what changes those takes `own_pipeline`."""
    pipeline = PromptInversionPipeline(frozen(networks))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def own_pipeline(folder) -> PromptInversionPipeline:
    pipeline = PromptInversionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    return [
        draw(Scene("large", "red", "square", "in the center", "black"), 16),
        draw(Scene("medium", "green", "circle", "at the top", "white"), 16),
        draw(Scene("small", "blue", "star", "on the left", "yellow"), 16),
    ]
