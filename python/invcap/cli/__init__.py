"""The command `invcap`. Results go to standard output, progress and logs to standard error."""

from __future__ import annotations

import logging
import os
import sys

import typer

from invcap.cli import captioning, data, page, prompts, training

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Pictures and sentences mapped to each other by one invertible network.",
)
for commands in (training, captioning, prompts, page):
    app.add_typer(commands.app)
app.add_typer(data.app, name="data")


def main() -> None:
    """Runs the command; a user's error ends in one line and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for library in ("httpx", "sentence_transformers", "datasets", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        if os.environ.get("INVCAP_TRACEBACK"):
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
