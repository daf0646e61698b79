from pathlib import Path

import pytest
from bulk_runs import NAMES, draw_quickly

from invcap.prompt_inversion import PromptInversionPipeline


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
