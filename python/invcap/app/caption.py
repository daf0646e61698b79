"""The tab Caption: sentences for a picture, and its round trip."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from invcap.app.commands import as_call, as_command, as_program
from invcap.app.fields import (
    FINE,
    answer,
    check_picture,
    code_shown,
    image_shown,
    picture_field,
    run_buttons,
)
from invcap.app.jobs import Job, connect
from invcap.app.models import Models
from invcap.captioning import Caption, InvertibleCaptioner
from invcap.figures import write_image

MOST = 20


def caption_tab(models: Models, captioner: InvertibleCaptioner, examples: list[str]) -> None:
    """Lays out the tab."""
    gr.Markdown(
        "Finds the sentences nearest to a picture. The score is a cosine: 1 is exact, about 0 is "
        "what unrelated sentences have."
    )
    writes = captioner.writer is not None
    with gr.Row():
        with gr.Column():
            picture = picture_field(examples, models.folder)
            most = min(MOST, len(captioner.candidates))
            top_k = gr.Slider(1, most, min(5, most), step=1, precision=0, label="Sentences")
            buttons = run_buttons("Caption the picture")
        with gr.Column():
            status = gr.Markdown()
            nearest = sentences_shown("Nearest known sentences")
            written = sentences_shown("In words of its own", visible=writes)
            again = image_shown("The picture after a round trip through the network", 280)
    code = code_shown()

    def work(job: Job, path: str, count: int) -> list[Any]:
        torch.manual_seed(0)
        (found,) = captioner.caption([path], count)
        own = captioner.write([path], count)[0] if writes else []
        file = job.folder / "round trip.png"
        write_image(file, captioner.redraw([path])[0])
        return ["", bars(found), bars(own), str(file), *as_text(models, Path(path).name, count)]

    connect(
        models.worker,
        "caption",
        buttons,
        [picture, top_k],
        [status, nearest, written, again, *code],
        lambda path, count: [answer(check_picture, path), FINE],
        work,
    )


def sentences_shown(label: str, visible: bool = True) -> gr.HTML:
    """An empty component for captions."""
    return gr.HTML(
        label=label, visible=visible, show_label=True, container=True, padding=True, min_height=80
    )


def bars(captions: Sequence[Caption]) -> str:
    """Captions with their scores, as numbers and as bars."""
    rows = (
        f"<li><span>{html.escape(c.text)}</span> <b>{c.score:.4f}</b>"
        f'<meter min="0" max="1" value="{c.score:.4f}" aria-hidden="true"></meter></li>'
        for c in captions
    )
    return f'<ol class="bars">{"".join(rows)}</ol>'


def as_text(models: Models, name: str, count: int) -> tuple[str, str]:
    """The commands and the Python code for a result."""
    folder, device = models.names["captioner"], models.names["device"]
    writes = models.captioner is not None and models.captioner.writer is not None
    ways = [False, True] if writes else [False]
    commands = [
        as_command("caption", folder, name, top_k=count, write=write, device=device)
        for write in ways
    ]
    calls = [
        f"print({as_call('captioner.' + ('write' if write else 'caption'), name, top_k=count)})"
        for write in ways
    ]
    python = as_program(
        ["from invcap import InvertibleCaptioner"],
        models.load_captioner(),
        *calls,
        f"{as_call('captioner.redraw', name)}[0].show()",
    )
    return "\n".join(commands), python
