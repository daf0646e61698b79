"""Commands that use a trained captioner."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from invcap.cli.options import (
    DEFAULT_CACHE,
    Cache,
    CaptionColumn,
    Data,
    Device,
    Drawings,
    GroupColumn,
    HeldOut,
    Json,
    Model,
    PictureColumn,
    Pictures,
    Seed,
    Streaming,
    Wordings,
    given,
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
    drawings: Drawings = None,
    pictures: Pictures = None,
    picture_column: PictureColumn = None,
    caption_column: CaptionColumn = None,
    group_column: GroupColumn = None,
    streaming: Streaming = False,
    device: Device = "auto",
    cache: Cache = DEFAULT_CACHE,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measures both directions on the held-out part of some data.

    The split depends on the share, the seed and the data alone: give those of the training.
    """
    from invcap.captioning import InvertibleCaptioner
    from invcap.captioning.run import evaluate_captioner
    from invcap.data.settings import DataSettings
    from invcap.training.devices import start_processes

    processes = start_processes(device)
    captioner = InvertibleCaptioner.from_pretrained(model).to(processes.device)
    options = source_options(
        wordings, pictures, picture_column, caption_column, group_column, streaming, drawings
    )
    size = captioner.image_encoder.size
    settings = DataSettings(data, options, size, held_out, seed=seed)
    metrics = evaluate_captioner(captioner, settings, cache, processes)
    if processes.is_main_process:
        print_metrics(metrics, as_json)


@app.command(epilog="Example: `invcap caption runs/demo picture.png --top-k 3`")
def caption(
    model: Model,
    pictures: Annotated[list[Path], typer.Argument(help="Image files.")],
    captions: Annotated[
        Path | None,
        typer.Option(help="File of sentences to choose from, one a line; else the training ones."),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Sentences for each image.")] = 1,
    write: Annotated[
        bool, typer.Option(help="Write new sentences; the captioner needs a `--writer`.")
    ] = False,
    beams: Annotated[int | None, typer.Option(help="Beams of `--write`, 8 by default.")] = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Finds the sentence nearest to each image, or writes a new one."""
    import torch

    from invcap.captioning import InvertibleCaptioner
    from invcap.training.devices import resolve_device

    if write and captions is not None:
        raise ValueError(f"captions must not be given beside write, got {captions}")
    if beams is not None and not write:
        raise ValueError(f"beams needs write, got {beams}")
    torch.manual_seed(seed)
    captioner = InvertibleCaptioner.from_pretrained(model).to(resolve_device(device))
    if captions is not None:
        lines = (line.strip() for line in captions.read_text(encoding="utf-8").splitlines())
        captioner.set_candidates(list(dict.fromkeys(filter(None, lines))))
    if write:
        found = captioner.write(pictures, top_k, **given(beams=beams))
    else:
        found = captioner.caption(pictures, top_k)
    result: list[dict[str, Any]] = [
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
    output: Annotated[Path, typer.Option(help="Folder for 0000.png and so on.")],
    samples: Annotated[int, typer.Option(help="Images of each sentence.")] = 1,
    temperature: Annotated[
        float,
        typer.Option(help="0 for the expected image; above, what the sentence leaves open varies."),
    ] = 0.0,
    refine_steps: Annotated[
        int | None,
        typer.Option(
            help="Gradient steps that make the image be captioned as the sentence says; default "
            "20 with the small autoencoder, else 0."
        ),
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draws an image for each sentence, by running the network backwards."""
    from invcap.captioning import InvertibleCaptioner
    from invcap.captioning.drawings import write_drawings
    from invcap.training.devices import resolve_device

    captioner = InvertibleCaptioner.from_pretrained(model).to(resolve_device(device))
    result = write_drawings(captioner, texts, output, samples, temperature, seed, refine_steps)
    print_result("\n".join(f"{r['picture']}\t{r['text']}" for r in result), result, as_json)
