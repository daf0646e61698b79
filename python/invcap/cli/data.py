"""Commands that make folders of captioned images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from invcap.cli.options import Json, given
from invcap.cli.output import print_result

if TYPE_CHECKING:
    from invcap.data.new_folder import FolderSummary

app = typer.Typer(no_args_is_help=True, help="Make folders of captioned images.")
Output = Annotated[Path, typer.Option(help="Folder to make.")]


@app.callback()
def commands() -> None:
    """Make folders of captioned images."""


@app.command(epilog="Example: `invcap data emoji --output emoji`")
def emoji(
    output: Output,
    font: Annotated[
        Path | None, typer.Option(help="NotoColorEmoji.ttf; default where Debian puts it.")
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Folder `common` of Unicode's CLDR, for captions with keywords; default where "
            "Debian's package unicode-cldr-core puts it, if that is installed."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turns the Noto colour emoji font into a folder of captioned images."""
    from invcap.data.emoji import write_emoji

    _print_summary(write_emoji(output, **given(font=font, annotations=annotations)), as_json)


@app.command(epilog="Example: `invcap data openclipart --output openclipart`")
def openclipart(
    output: Output,
    source: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the drawings; default where Debian's packages openclipart-png and "
            "openclipart-svg put them."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turns the Open Clip Art Library into a folder of captioned images."""
    from invcap.data.openclipart import write_openclipart

    _print_summary(write_openclipart(output, **given(source=source)), as_json)


def _print_summary(summary: FolderSummary, as_json: bool) -> None:
    text = f"{summary.folder}: {summary.pictures} images in {summary.groups} groups"
    print_result(text, [{**asdict(summary), "folder": str(summary.folder)}], as_json)
