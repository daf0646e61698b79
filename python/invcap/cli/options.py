"""Options that several commands share, and how they are parsed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON list and nothing else.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda` or `cuda:N`.")]
Precision = Annotated[
    str, typer.Option(help="Of arithmetic in training: `float32`, `bfloat16` or `float16`.")
]
Model = Annotated[Path, typer.Argument(help="Folder that `invcap train` wrote.")]
Data = Annotated[
    str,
    typer.Option(
        help="`shapes`, a folder or file of captioned images, tar shards, or "
        "`hf:NAME_OR_PATH[:SPLIT]`."
    ),
]
Size = Annotated[str, typer.Option(help="Height x width of the images, pixels.")]
HeldOut = Annotated[float, typer.Option(help="Share of the images kept out of training.")]
Cache = Annotated[Path, typer.Option(envvar="INVCAP_CACHE", help="Folder for cached encodings.")]
Wordings = Annotated[int | None, typer.Option(help="Captions of each image of `shapes`, 1 to 5.")]
Drawings = Annotated[
    int | None,
    typer.Option(help="Drawings of each scene of `shapes`, each a little off; 0: the clean one."),
]
Pictures = Annotated[
    Path | None, typer.Option(help="Folder of the images, where the captions are elsewhere.")
]
PictureColumn = Annotated[str | None, typer.Option(help="Column of the images in `hf:` data.")]
CaptionColumn = Annotated[
    list[str] | None, typer.Option(help="Column of captions in `hf:` data; may be repeated.")
]
GroupColumn = Annotated[
    str | None,
    typer.Option(help="Column in `hf:` data whose equal values stay on one side of the split."),
]
Streaming = Annotated[
    bool, typer.Option(help="Read `hf:` data as a stream, without downloading all of it first.")
]
Diffusion = Annotated[
    str | None,
    typer.Option("--model", help="Model: folder, file, hub name or `tiny-sd3`; else tiny-sd."),
]
Dtype = Annotated[
    str, typer.Option(help="Dtype of frozen networks: `float32`, `bfloat16` or `float16`.")
]
ImageSize = Annotated[
    str | None, typer.Option("--size", help="Height x width, pixels; default the model's own.")
]
DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "invcap"


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of HEIGHTxWIDTH.

    Raises:
        ValueError: it is not of that form.
    """
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"size must be HEIGHTxWIDTH in pixels, such as 32x32, got {text!r}")
    return int(height), int(width)


def source_options(
    wordings: int | None = None,
    pictures: Path | None = None,
    picture_column: str | None = None,
    caption_columns: list[str] | None = None,
    group_column: str | None = None,
    streaming: bool = False,
    drawings: int | None = None,
) -> dict[str, Any]:
    """Options of a source of data, as `invcap.data.load_examples` takes them."""
    return given(
        wordings=wordings,
        drawings=drawings,
        pictures=pictures and str(pictures),
        picture_column=picture_column,
        caption_columns=caption_columns,
        group_column=group_column,
        streaming=streaming or None,
    )


def configuration(context: typer.Context) -> dict[str, Any]:
    """A command's options, given or by default, in the form that `--config` reads."""
    elsewhere = ("config", "output", "resume", "overwrite", "as_json")
    found = {}
    for option in context.command.params:
        value = context.params.get(option.name)
        if option.name not in elsewhere and value not in (None, [], ()):
            found[option.name] = str(value) if isinstance(value, Path) else value
    return found


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Makes a YAML file's values the defaults of a command's options.

    Raises:
        typer.BadParameter: the file is not a YAML mapping, or names no option.
    """
    if path is None:
        return None
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"{path}: not a YAML file: {error}") from None
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{path}: expected option: value, got {type(values).__name__}")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    known = {option.name for option in context.command.params}
    for name in values:
        if name not in known:
            raise typer.BadParameter(
                f"{path}: {name} is not an option; expected some of {', '.join(sorted(known))}"
            )
    context.default_map = {**(context.default_map or {}), **values}
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        callback=read_config,
        is_eager=True,
        help="YAML file of options, such as a run's `run.yaml`; the command line wins.",
    ),
]
