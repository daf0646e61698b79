import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load(folder: str, name: str) -> ModuleType:
    """Imports a script of a folder that is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pipeline():
    from invcap.prompt_inversion import PromptInversionPipeline

    parts = load("tests/prompt_inversion", "random_pipeline").make_pipeline().components
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    pipeline = PromptInversionPipeline(**{name: parts[name] for name in names})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def scripts():
    """Imports a benchmark, after what it imports."""

    def benchmark(*names: str) -> ModuleType:
        return [load("benchmarks", name) for name in names][-1]

    return benchmark
