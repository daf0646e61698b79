"""Captions that leave out the place: does one sentence draw its shape at several places?

    python benchmarks/unsaid_place.py --work runs/unsaid_place --output docs/unsaid_place

Drawings of shapes whose captions name size, colour, shape and background. A captioner with
`variations` is trained on them as on any folder of captioned pictures; whole sentences are held
out. Of each of some held-out sentences it draws several samples; one is right if it shows the
colour, shape and background that were asked for, whatever the place and size.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image

from invcap.captioning import InvertibleCaptioner, run
from invcap.captioning.train import SHAPES
from invcap.data import split_by_group
from invcap.data.recognize_shapes import recognize
from invcap.data.settings import DataSettings, load_data
from invcap.data.shapes import Scene, draw, jitter_of, scenes
from invcap.encoders.make import EncoderSettings
from invcap.figures import write_image
from invcap.files import write_json
from invcap.training.devices import start_processes

DRAWINGS = 3
VARIATIONS = 8
ENOUGH = 5
SHOWN = 8


def sentence(scene: Scene) -> str:
    """A caption without the place."""
    return f"a {scene.size} {scene.colour} {scene.shape}, {scene.background} background"


def save_pictures(folder: Path) -> None:
    """Writes drawings of all scenes with their sentences; each sentence is one group."""
    folder.mkdir(parents=True)
    lines = []
    for number, scene in enumerate(scenes()):
        for drawing in range(DRAWINGS):
            name, said = f"{number:05}-{drawing}.png", sentence(scene)
            draw(scene, jitter=jitter_of(scene, drawing)).save(folder / name)
            lines.append(json.dumps({"file_name": name, "text": said, "group": said}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def held_out_scenes(data: DataSettings, count: int) -> list[Scene]:
    """One scene for each of the first held-out sentences."""
    examples = load_data(data).examples
    _, held_out = split_by_group(examples, data.held_out, data.seed)
    unseen = {examples[index].group for index in held_out}
    by_sentence = {sentence(scene): scene for scene in scenes() if sentence(scene) in unseen}
    chosen = np.random.default_rng(0).permutation(list(by_sentence))[:count]
    return [by_sentence[said] for said in chosen]


def judge(drawn: list[Image.Image], asked: list[Scene]) -> dict[str, object]:
    """Counts right samples of each scene's sentence, and at how many of nine places they are."""
    found = iter(recognize(drawn))
    right, places = [], []
    for scene in asked:
        wanted = replace(scene, size="", place="")
        seen = [next(found) for _ in range(len(drawn) // len(asked))]
        fits = [one for one in seen if replace(one, size="", place="") == wanted]
        right.append(len(fits) / len(seen))
        places.append(len({one.place for one in fits}))
    return {
        "sentences": len(asked),
        "right": float(np.mean(right)),
        "places": float(np.mean(places)),
        f"at_{ENOUGH}_places": float(np.mean(np.array(places) >= ENOUGH)),
    }


def main(
    output: Annotated[Path, typer.Option(help="Folder for results.json and samples.png.")],
    work: Annotated[Path, typer.Option(help="Folder for pictures and the captioner.")],
    count: Annotated[int, typer.Option(min=1, help="Held-out sentences.")] = 50,
    samples: Annotated[int, typer.Option(min=1, help="Drawings of each.")] = 20,
    temperature: Annotated[float, typer.Option(help="Deviation of the variations.")] = 1.0,
) -> None:
    """Trains where there is no captioner yet, draws, and judges what is drawn."""
    pictures, captioner = work / "pictures", work / "captioner"
    if not pictures.exists():
        save_pictures(pictures)
    data = DataSettings(str(pictures))
    if not (captioner / "metrics.json").exists():
        settings = replace(SHAPES, variations=VARIATIONS)
        processes = start_processes("cpu")
        run.train(
            captioner, data, EncoderSettings(), settings, work / "cache", processes, resume=True
        )
    model = InvertibleCaptioner.from_pretrained(captioner)
    asked = held_out_scenes(data, count)
    drawn = model.generate(
        [sentence(scene) for scene in asked],
        temperature,
        torch.Generator().manual_seed(0),
        samples,
    )
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "results.json", {"temperature": temperature} | judge(drawn, asked))
    first = np.stack([np.asarray(image) for image in drawn[: SHOWN * samples]])
    rows, (height, width, _) = len(first) // samples, first.shape[1:]
    grid = first.reshape(rows, samples, height, width, 3).swapaxes(1, 2)
    grid = grid.reshape(rows * height, samples * width, 3)
    write_image(output / "samples.png", Image.fromarray(grid))


if __name__ == "__main__":
    typer.run(main)
