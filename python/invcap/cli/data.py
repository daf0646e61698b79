"""Commands that make folders of captioned images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from invcap.cli.options import Json, given
from invcap.cli.output import print_result

app = typer.Typer(no_args_is_help=True, help="Make folders of captioned images.")


@app.callback()
def commands() -> None:
    """Make folders of captioned images."""


@app.command(epilog="Example: `invcap data emoji --output emoji`")
def emoji(
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    font: Annotated[
        Path | None, typer.Option(help="NotoColorEmoji.ttf; default where Debian puts it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turns the Noto colour emoji font into a folder of captioned images."""
    from invcap.data.emoji import write_emoji

    summary = write_emoji(output, **given(font=font))
    result = {"folder": str(output), "pictures": summary.pictures, "groups": summary.groups}
    text = f"{output}: {summary.pictures} images in {summary.groups} groups"
    print_result(text, [result], as_json)
