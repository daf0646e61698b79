import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from accelerate import Accelerator
from random_pipeline import make_pipeline

from invcap.diffusion.families import frozen
from invcap.prompt_inversion import PromptInversionPipeline

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="module")
def pipeline() -> PromptInversionPipeline:
    pipeline = PromptInversionPipeline(frozen(make_pipeline()))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Imports a benchmark by its name."""
    return importlib.import_module
