"""Commands that use a trained captioner."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from invcap.cli.options import (
    DEFAULT_CACHE,
    Cache,
    CaptionColumn,
    Data,
    Device,
    GroupColumn,
    HeldOut,
    Json,
    Model,
    PictureColumn,
    Pictures,
    Seed,
    Streaming,
    Wordings,
    source_options,
)
from invcap.cli.output import print_metrics, print_result

app = typer.Typer()


@app.command(epilog="Example: `invcap evaluate runs/demo --data shapes`")
def evaluate(
    model: Model,
    data: Data = "shapes",
    held_out: HeldOut = 0.1,
    wordings: Wordings = None,
    pictures: Pictures = None,
    picture_column: PictureColumn = None,
    caption_column: CaptionColumn = None,
    group_column: GroupColumn = None,
    cache: Cache = DEFAULT_CACHE,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measures both directions on the held-out part of some data.

    The split depends on the share, the seed and the data alone: give those of the training.
    """
    from invcap.captioning import InvertibleCaptioner
    from invcap.captioning.evaluate import evaluate as measure
    from invcap.captioning.pairs import encode_pairs
    from invcap.data.settings import DataSettings, load_split

    captioner = InvertibleCaptioner.from_pretrained(model)
    options = source_options(wordings, pictures, picture_column, caption_column, group_column)
    split = load_split(DataSettings(data, options, captioner.pictures.size, held_out, seed=seed))
    pairs = encode_pairs(
        [split.examples[i] for i in split.held_out],
        split.pixels[split.held_out],
        captioner.pictures,
        captioner.sentences,
        cache,
    )
    print_metrics(measure(captioner, pairs), as_json)


@app.command(epilog="Example: `invcap caption runs/demo picture.png --top-k 3`")
def caption(
    model: Model,
    pictures: Annotated[list[Path], typer.Argument(help="Picture files.")],
    captions: Annotated[
        Path | None,
        typer.Option(help="File of sentences to choose from, one a line; else the training ones."),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Sentences for each picture.")] = 1,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Finds the sentence nearest to each picture."""
    import torch

    from invcap.captioning import InvertibleCaptioner

    torch.manual_seed(seed)
    captioner = InvertibleCaptioner.from_pretrained(model)
    if captions is not None:
        lines = (line.strip() for line in captions.read_text(encoding="utf-8").splitlines())
        captioner.set_bank(list(dict.fromkeys(filter(None, lines))))
    found = captioner.caption(pictures, top_k)
    result = [
        {"picture": str(picture), "captions": [asdict(c) for c in best]}
        for picture, best in zip(pictures, found, strict=True)
    ]
    lines = (
        f"{r['picture']}\t{c['text']}\t{c['score']:.4f}" for r in result for c in r["captions"]
    )
    print_result("\n".join(lines), result, as_json)


@app.command(
    epilog='Example: `invcap generate runs/demo "a small red star at the top" --output pictures`'
)
def generate(
    model: Model,
    texts: Annotated[list[str], typer.Argument(help="Sentences.")],
    output: Annotated[Path, typer.Option(help="Folder for the pictures, 0000.png and so on.")],
    temperature: Annotated[
        float, typer.Option(help="Above 0, sample (models of the objective `likelihood`).")
    ] = 0.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draws a picture for each sentence, by running the network backwards."""
    import torch

    from invcap.captioning import InvertibleCaptioner
    from invcap.files import replacing

    captioner = InvertibleCaptioner.from_pretrained(model)
    drawn = captioner.generate(texts, temperature, torch.Generator().manual_seed(seed))
    result = []
    for index, (text, picture) in enumerate(zip(texts, drawn, strict=True)):
        path = output / f"{index:04}.png"
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")
        result.append({"text": text, "picture": str(path)})
    print_result("\n".join(f"{r['picture']}\t{r['text']}" for r in result), result, as_json)
