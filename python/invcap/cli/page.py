"""The command that serves the web page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from invcap.cli.options import Device, Diffusion

app = typer.Typer()


@app.command("app", epilog="Example: `invcap app --captioner runs/demo`")
def serve(
    captioner: Annotated[
        Path | None, typer.Option(help="Folder that `invcap train` wrote, for Caption and Draw.")
    ] = None,
    model: Diffusion = None,
    device: Device = "auto",
    host: Annotated[
        str, typer.Option(help="Address to serve at; 127.0.0.1 is for this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve at.")] = 7860,
    auth: Annotated[
        str | None,
        typer.Option(envvar="INVCAP_AUTH", metavar="USER:PASSWORD", help="What the page asks for."),
    ] = None,
) -> None:
    """Serves a web page: captions, drawings, scores, and inversions with live progress."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the page needs Gradio: pip install 'invcap[app]'")
    user, colon, password = (auth or "").partition(":")
    if auth is not None and not (user and colon and password):
        raise ValueError("auth must be USER:PASSWORD, with neither of them empty")
    from invcap.app.page import serve as serve_page

    login = (user, password) if auth is not None else None
    serve_page(captioner, model, device, host, port, login)
