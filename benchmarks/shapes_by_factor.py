"""Accuracy of a captioner of shapes, factor by factor, in both directions.

    python benchmarks/shapes_by_factor.py runs/demo --output docs/shapes

Scenes whose combination of factors is in no training set, each as a picture of three hands: a
drawing with deviations of its own, as training has them; the clean rendering; and one of other
code (`another_hand`). Captions are the nearest of all held-out sentences. Drawn pictures are judged
by the nearest of all clean renderings.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from another_hand import draw_by_hand
from held_out import EVERY, drawing, held_out_scenes
from PIL import Image
from torch import Tensor

from invcap.captioning import InvertibleCaptioner
from invcap.data import fit_image
from invcap.data.shapes import SIDE, Scene, draw
from invcap.files import write_json
from invcap.tiny_sd.evaluate import shares

HANDS: dict[str, Callable[[Scene], Image.Image]] = {
    "drawings": drawing,
    "clean renderings": draw,
    "another hand": lambda scene: draw_by_hand(scene, SIDE, 0),
}


def main(
    captioner: Annotated[Path, typer.Argument(help="Folder of a captioner of `shapes`.")],
    output: Annotated[Path, typer.Option(help="Folder for factors.json.")],
    count: Annotated[int, typer.Option(min=1, help="Scenes.")] = 2376,
) -> None:
    """Measures each factor of held-out scenes, in both directions."""
    model = InvertibleCaptioner.from_pretrained(captioner)
    asked = held_out_scenes(count, seed=0)
    sentences = [scene.caption() for scene in asked]
    model.set_candidates(sentences)
    said = {sentence: scene for sentence, scene in zip(sentences, asked, strict=True)}
    result = {"drawn": nearest_right(model.generate(sentences), asked)}
    for hand, picture in HANDS.items():
        found = model.caption([picture(scene) for scene in asked])
        result[hand] = named_right([said[best[0].text] for best in found], asked)
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "factors.json", result)


def nearest_right(drawn: Sequence[Image.Image], asked: Sequence[Scene]) -> dict[str, float]:
    """For each factor, the share of images whose nearest clean rendering has it as asked."""
    rendered = pixels([fit_image(draw(scene), drawn[0].size[::-1]) for scene in EVERY])
    nearest = [torch.cdist(some, rendered).argmin(1) for some in pixels(drawn).split(100)]
    return shares([EVERY[index] for index in torch.cat(nearest).tolist()], asked)


def pixels(images: Sequence[Image.Image]) -> Tensor:
    """Images as rows, (N, 3 H W)."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).flatten(1).float()


def named_right(found: Sequence[Scene], asked: Sequence[Scene]) -> dict[str, float]:
    """The share of scenes that are as asked: as a whole, and in each factor."""
    whole = np.mean([one == other for one, other in zip(found, asked, strict=True)])
    return {"r_at_1": float(whole)} | shares(found, asked)


if __name__ == "__main__":
    typer.run(main)
