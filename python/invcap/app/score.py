"""Prompts compared by how likely they made a picture."""

from __future__ import annotations

import csv
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from invcap.app.commands import Code, as_call, as_command, shown_as
from invcap.app.fields import (
    answer,
    check_picture,
    check_seed,
    check_whole,
    files_shown,
    image_shown,
    picture_field,
    seed_field,
)
from invcap.app.jobs import Job
from invcap.app.models import Models
from invcap.figures import write_figure
from invcap.files import replacing, write_json
from invcap.prompt_inversion.report import scores_figure

MOST = 32
MOST_DRAWS = 4096
HEADERS = ["prompt", "bound", "± error", "to the best", "± error", "more than 2 errors"]
PROMPTS = """a red square, black background
a large red square in the center of the image, black background
a green circle
a room"""


def score_tab(models: Models, examples: list[str]) -> None:
    """Lays out the tab."""
    gr.Markdown(
        "Compares prompts by how likely they made a picture: a bound of log p(picture | prompt), "
        "in nats per latent number. Higher is better; bars are standard errors."
    )
    with gr.Row():
        with gr.Column():
            picture = picture_field(examples)
            prompts = gr.Textbox(label="Prompts, one a line", lines=5, value=PROMPTS)
            draws = gr.Number(
                256, label="Noise samples", precision=0, info="More cost time and give less error."
            )
            seed = seed_field()
            with gr.Row():
                run = gr.Button("Score the prompts", variant="primary")
                cancel = gr.Button("Cancel")
        with gr.Column():
            status = gr.Markdown()
            plot = image_shown("Bounds, best first")
            table = gr.Dataframe(
                headers=HEADERS, label="Table, best first", interactive=False, wrap=True
            )
            files = files_shown("Table to download")
            shown = shown_as()

    def score(path: str, text: str, count: int, start: int) -> Generator[Any, None, None]:
        given = lines_of(text)
        total = len(given) * -(-count // models.pipeline.model.max_batch)

        def work(job: Job) -> tuple[list[dict[str, Any]], Path]:
            generator = torch.Generator().manual_seed(start)
            rows = models.pipeline.log_likelihood(path, given, count, generator).rows()
            write_scores(job.folder, rows)
            return rows, job.folder

        def show(job: Job) -> tuple[Any, ...]:
            return f"Scoring: {job.evaluations / total:.0%}", *[gr.skip()] * 5

        def give(result: tuple[list[dict[str, Any]], Path]) -> tuple[Any, ...]:
            rows, folder = result
            return (
                "",
                str(folder / "scores.png"),
                table_of(rows),
                [str(folder / name) for name in ("scores.csv", "scores.json")],
                *as_text(models, Path(path).name, given, count, start),
            )

        yield from models.worker.run(work, give, show)

    def check(
        path: str | None, text: str, count: float | None, start: float | None
    ) -> list[dict[str, Any]]:
        return [
            answer(check_picture, path),
            answer(check_prompts, models, text),
            answer(check_whole, "Noise samples", count, 2, MOST_DRAWS),
            answer(check_seed, start),
        ]

    event = run.click(
        score,
        [picture, prompts, draws, seed],
        [status, plot, table, files, *shown],
        validator=check,
        concurrency_id=models.queue,
        concurrency_limit=1,
        api_name="score",
    )
    cancel.click(lambda: "", None, status, cancels=[event], queue=False, api_visibility="private")


def lines_of(text: str) -> list[str]:
    """The prompts in a text, each once."""
    return list(dict.fromkeys(filter(None, map(str.strip, text.splitlines()))))


def check_prompts(models: Models, text: str) -> None:
    """Raises ValueError unless a text has prompts that can be scored."""
    prompts = lines_of(text)
    if not 1 <= len(prompts) <= MOST:
        raise ValueError(f"Write from 1 to {MOST} prompts, one a line; got {len(prompts)}.")
    for prompt in prompts:
        models.pipeline.model.check_prompt(prompt)


def best_first(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of scores, the highest bound first."""
    return sorted(rows, key=lambda row: -row["log_likelihood"])


def table_of(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Scores as the page's table shows them."""
    table = []
    for row in best_first(rows):
        numbers = list(row.values())[1:]
        difference, error = numbers[2:]
        clear = "the best" if not difference else "yes" if abs(difference) > 2 * error else "no"
        table.append([row["prompt"], *(f"{number:.4f}" for number in numbers), clear])
    return table


def write_scores(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes scores as JSON, in the order given, as CSV and as a plot, best first."""
    write_json(folder / "scores.json", list(rows))
    with replacing(folder / "scores.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(best_first(rows))
    write_figure(folder / "scores.png", scores_figure(best_first(rows)))


def as_text(
    models: Models, name: str, prompts: Sequence[str], draws: int, seed: int
) -> tuple[str, str]:
    """The command and the Python of a result."""
    model, device = models.names["model"], models.names["device"]
    options = {"draws": draws, "seed": seed, "model": model, "device": device}
    load = as_call("PromptInversionPipeline.from_pretrained", *filter(None, [model]))
    load += f".to({device!r})" if device else ""
    generator = Code(f"torch.Generator().manual_seed({seed})")
    call = as_call("pipeline.log_likelihood", name, list(prompts), draws=draws, generator=generator)
    python = (
        "import torch\nfrom invcap import PromptInversionPipeline\n\n"
        f"pipeline = {load}\nfound = {call}\nprint(found.rows())"
    )
    return as_command("score", [name, *prompts], options), python
