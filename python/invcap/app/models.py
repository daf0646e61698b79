"""The models behind the page's tabs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from accelerate import Accelerator

from invcap.app.commands import as_call
from invcap.app.jobs import Worker
from invcap.captioning import InvertibleCaptioner
from invcap.data.settings import DataSettings, load_data
from invcap.data.shapes import Scene, draw
from invcap.data.split import is_held_out
from invcap.figures import write_image
from invcap.prompt_inversion import PromptInversionPipeline
from invcap.training.devices import start_processes

EXAMPLES = 6
SIDE = 192
SHAPES = (
    Scene("large", "red", "square", "in the center", "black"),
    Scene("medium", "green", "circle", "at the top", "white"),
    Scene("small", "blue", "star", "on the left", "yellow"),
    Scene("large", "pink", "heart", "in the bottom right corner", "gray"),
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """The models of the page's tabs.

    Attributes:
        pipeline: scores and inverts.
        captioner: captions and draws; None if none was given.
        worker: runs the jobs.
        processes: the device and the processes of inversions.
        folder: the page's own folder, for files.
        names: `model`, `captioner` and `device` as they were given, for commands.
    """

    pipeline: PromptInversionPipeline
    captioner: InvertibleCaptioner | None
    worker: Worker
    processes: Accelerator
    folder: Path
    names: dict[str, str | None]

    def load_captioner(self) -> str:
        """Python code that loads the captioner."""
        load = as_call("InvertibleCaptioner.from_pretrained", self.names["captioner"])
        return f"captioner = {load}{self._to()}"

    def load_pipeline(self) -> str:
        """Python code that loads the pipeline."""
        model = [] if self.names["model"] is None else [self.names["model"]]
        load = as_call("PromptInversionPipeline.from_pretrained", *model)
        return f"pipeline = {load}{self._to()}"

    def _to(self) -> str:
        device = self.names["device"]
        return "" if device is None else f".to({device!r})"


def load_models(
    folder: Path, captioner: Path | None = None, model: str | None = None, device: str = "auto"
) -> Models:
    """Loads the models of the page.

    Args:
        folder: the page's own folder.
        captioner: folder that `invcap train` wrote.
        model: folder, file or hub name of a text-to-image model; by default tiny-sd.
        device: see `resolve_device`.

    Raises:
        ValueError: one of them cannot be loaded.
    """
    processes = start_processes(device)
    pipeline = PromptInversionPipeline.from_pretrained(model).to(processes.device)
    networks = [pipeline.model.denoiser]
    says = None
    if captioner is not None:
        says = InvertibleCaptioner.from_pretrained(captioner).to(processes.device)
        networks.append(says.network)
    names = {
        "model": model,
        "captioner": None if captioner is None else str(captioner),
        "device": None if device == "auto" else device,
    }
    return Models(pipeline, says, Worker(networks, folder), processes, folder, names)


def write_examples(models: Models) -> list[str]:
    """Example pictures: shapes, and held-out ones if the captioner was trained on other data."""
    folder = models.folder / "examples"
    paths = []
    for scene in SHAPES:
        paths.append(folder / f"{scene.colour} {scene.shape}.png")
        write_image(paths[-1], draw(scene, SIDE))
    about = {} if models.captioner is None else models.captioner.about.get("data", {})
    if about and about["data"] != "shapes":
        try:
            paths = [*_real_examples(folder, DataSettings(**about)), *paths]
        except (ValueError, OSError) as error:
            logger.warning("no example of the captioner's data: %s", error)
    return [str(path) for path in paths]


def _real_examples(folder: Path, settings: DataSettings) -> list[Path]:
    """Some held-out pictures of data on this machine."""
    if not Path(settings.data).exists():
        return []
    examples = load_data(settings).examples
    held_out = (e for e in examples if is_held_out(e.group, settings.held_out, settings.seed))
    paths = []
    for number, example in enumerate(islice(held_out, EXAMPLES)):
        picture = example.open()
        picture.thumbnail((2 * SIDE, 2 * SIDE))
        paths.append(folder / f"{number:02} {Path(example.name).stem}.png")
        write_image(paths[-1], picture)
    return paths
