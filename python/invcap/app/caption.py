"""A picture to sentences, and there and back."""

from __future__ import annotations

import html
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from invcap.app.commands import as_call, as_command, shown_as
from invcap.app.fields import answer, check_picture, fine, image_shown, picture_field
from invcap.app.jobs import Job
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
    with gr.Row():
        with gr.Column():
            picture = picture_field(examples)
            most = min(MOST, len(captioner.candidates))
            top_k = gr.Slider(1, most, min(5, most), step=1, precision=0, label="Sentences")
            with gr.Row():
                run = gr.Button("Caption the picture", variant="primary")
                cancel = gr.Button("Cancel")
        with gr.Column():
            sentences = gr.HTML(
                label="Nearest sentences",
                show_label=True,
                container=True,
                padding=True,
                min_height=80,
            )
            again = image_shown("The picture after a round trip through the network", 280)
            shown = shown_as()

    def caption(path: str, count: int) -> Generator[Any, None, None]:
        def work(job: Job) -> tuple[list[Caption], Path]:
            torch.manual_seed(0)
            (found,) = captioner.caption([path], count)
            (redrawn,) = captioner.redraw([path])
            file = job.folder / "round trip.png"
            write_image(file, redrawn)
            return found, file

        def give(result: tuple[list[Caption], Path]) -> tuple[Any, ...]:
            found, file = result
            return bars(found), str(file), *as_text(models, Path(path).name, count)

        yield from models.worker.run(work, give)

    event = run.click(
        caption,
        [picture, top_k],
        [sentences, again, *shown],
        validator=lambda path, count: [answer(check_picture, path), answer(fine)],
        concurrency_id=models.queue,
        concurrency_limit=1,
        api_name="caption",
    )
    cancel.click(None, cancels=[event])


def bars(captions: Sequence[Caption]) -> str:
    """Captions with their scores, as numbers and as bars."""
    rows = (
        f"<li><span>{html.escape(c.text)}</span> <b>{c.score:.4f}</b>"
        f'<meter min="0" max="1" value="{c.score:.4f}" aria-hidden="true"></meter></li>'
        for c in captions
    )
    return f'<ol class="bars">{"".join(rows)}</ol>'


def as_text(models: Models, name: str, count: int) -> tuple[str, str]:
    """The command and the Python of a result."""
    folder, device = models.names["captioner"], models.names["device"]
    command = as_command("caption", [folder, name], {"top-k": count, "device": device})
    load = as_call("InvertibleCaptioner.from_pretrained", folder)
    load += f".to({device!r})" if device else ""
    python = (
        "from invcap import InvertibleCaptioner\n\n"
        f"captioner = {load}\n"
        f"print({as_call('captioner.caption', name, top_k=count)})\n"
        f"{as_call('captioner.redraw', name)}[0].show()"
    )
    return command, python
