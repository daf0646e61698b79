"""Runs of bulk inversion on a few pictures, and what they wrote."""

import json
from pathlib import Path
from typing import Any

import pytest

from invcap.diffusion.model import FrozenTextToImage
from invcap.files import write_text
from invcap.prompt_inversion import InversionSettings, report
from invcap.prompt_inversion import bulk as run
from invcap.training.devices import start_processes

NAMES = ["b.png", "c.JPG", "deep/a.png", "deep/er/a.png", "e.png"]
FOLDERS = [name.rpartition(".")[0] for name in NAMES]
SETTINGS = run.RunSettings(
    size=(16, 16),
    inversion=InversionSettings(
        steps=4, draws=2, bank=16, held_out=8, evaluate_every=2, snapshots=2, checkpoint_every=1
    ),
    seed=7,
    batch_size=2,
)
BATCHES = 3


def draw_quickly(patch: pytest.MonkeyPatch) -> None:
    generate = FrozenTextToImage.generate

    def quick(self, conditioning, seeds, size=None, guidance_scale=1.0, *_):
        return generate(self, conditioning, seeds, size, guidance_scale, num_inference_steps=1)

    patch.setattr(FrozenTextToImage, "generate", quick)
    patch.setattr(report, "write_figure", lambda path, figure: write_text(path, "a plot"))


def bulk(pipeline, paths, output, settings=SETTINGS, resume=False, captioner=None):
    paths = [paths] if isinstance(paths, Path) else paths
    processes = start_processes("cpu")
    return run.invert(pipeline, paths, output, settings, processes, resume, captioner)


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"seconds": None}


def contents(output: Path) -> dict[str, bytes]:
    """What a run wrote, without the seconds that it took."""
    found = {}
    for path in filter(Path.is_file, output.rglob("*")):
        content = path.read_bytes()
        if path.name == run.RESULT:
            content = json.dumps(timeless(json.loads(content))).encode()
        found[path.relative_to(output).as_posix()] = content
    return found
