"""Words found for drawings of shapes that no training has seen, without a captioner.

    python benchmarks/words_by_factor.py --output docs/words --count 200

Each drawing has deviations of its own. Its embedding is found from "a room"; the words are then
searched in the vocabulary of training captions. A factor is right where the words name that of the
scene; words in another order than the captions' name none. The search was developed on others.
"""

import re
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from held_out import EVERY, drawing, held_out_scenes

from invcap.cli.options import DEFAULT_CACHE, Cache
from invcap.data import split_by_group
from invcap.data.shapes import Scene, load_shapes
from invcap.files import write_json
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.prompt_inversion.bank import make_bank
from invcap.prompt_inversion.search import SearchSettings
from invcap.prompt_inversion.word_search import WordSearch

CAPTION = re.compile(
    r"a (?P<size>\w+) (?P<colour>\w+) (?P<shape>\w+) (?P<place>.+) of the image, "
    r"(?P<background>\w+) background"
)
PLACES = {"top", "bottom", "left", "right", "center"}


def main(
    output: Annotated[Path, typer.Option(help="Folder for words.json.")],
    model: Annotated[str | None, typer.Option(help="Model of `shapes`; else tiny-sd.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Drawings.")] = 200,
    sentences: Annotated[int, typer.Option(min=1, help="Captions of the bank.")] = 2000,
    steps: Annotated[int, typer.Option(help="Gradient steps of each inversion.")] = 40,
    budget: Annotated[int, typer.Option(help="Most UNet evaluations of a search.")] = 8192,
    at_once: Annotated[int, typer.Option(min=1, help="Drawings inverted at once.")] = 10,
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Measures which factors of held-out drawings the words name."""
    pipeline = PromptInversionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    train, _ = split_by_group(load_shapes().examples, 0.1, seed=0)
    chosen = Random(1).sample(train, min(sentences, len(train)))
    bank = make_bank(pipeline.model, [EVERY[index].caption() for index in chosen], cache)
    words = WordSearch(bank, settings=SearchSettings(budget=budget))
    settings = InversionSettings(steps=steps, evaluate_every=steps, held_out=16, snapshots=0)
    rows: list[dict[str, object]] = []
    scenes = held_out_scenes(count, seed=4)
    for first in range(0, count, at_once):
        asked = scenes[first : first + at_once]
        drawings = [drawing(scene) for scene in asked]
        found = pipeline.invert(
            drawings, "a room", settings, seeds=first, num_inference_steps=1, words=words
        )
        for scene, said, cost in zip(asked, found.prompts, found.prompt_evaluations, strict=True):
            row = {"true": scene.caption(), "said": said, "evaluations": cost}
            rows.append(row | {"right": right(said, scene)})
            typer.echo(
                f"{'' if said == scene.caption() else scene.caption() + ' -> '}{said}\t{cost}"
            )
        write_json(output / "words.json", summary(rows))


def right(said: str, scene: Scene) -> dict[str, bool]:
    """Which factors of a scene a sentence names, in the order of the captions' first wording."""
    found = CAPTION.fullmatch(said)
    named = replace(scene, **found.groupdict()) if found else None
    factors = {} if named is None else asdict(named)
    return {
        name: PLACES & {*factors.get(name, "").split()} == PLACES & {*value.split()}
        if name == "place"
        else factors.get(name) == value
        for name, value in asdict(scene).items()
    }


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    """Shares of factors that are right, median evaluations per drawing, and all rows."""
    factors = [row["right"] for row in rows]
    return {
        "drawings": len(rows),
        **{name: sum(one[name] for one in factors) / len(rows) for name in factors[0]},
        "evaluations": sorted(row["evaluations"] for row in rows)[len(rows) // 2],
        "rows": rows,
    }


if __name__ == "__main__":
    typer.run(main)
