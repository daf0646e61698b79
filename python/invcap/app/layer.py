"""The tab Layer: errors of a network's inverse, layer by layer."""

from __future__ import annotations

from typing import Any

import gradio as gr
import torch
from matplotlib.figure import Figure

from invcap.app.commands import Code, as_call, as_program
from invcap.app.fields import (
    FINE,
    answer,
    check_seed,
    code_shown,
    image_shown,
    run_buttons,
    seed_field,
)
from invcap.app.jobs import Job, connect
from invcap.app.models import Models
from invcap.figures import write_figure
from invcap.training.rotation import train_rotation
from invcap_ext import InvertibleNetwork, RoundTrip, round_trip

ROWS = 256
NEW, CAPTIONER = "A new one", "The captioner's"
LEAST = 1e-9  # that a logarithmic scale shows
FIGURES = ("forward_error", "inverse_error", "condition_number", "amplification")


def layer_tab(models: Models) -> None:
    """Lays out the tab."""
    gr.Markdown(
        "A layer is y = leaky_relu(L U x + b), and its inverse two triangular solves. This runs "
        f"{ROWS} rows through a network and back and shows where the round trip loses digits: "
        "where a condition number is high."
    )
    with gr.Row():
        with gr.Column():
            choices = [NEW, *([CAPTIONER] if models.captioner else [])]
            kind = gr.Radio(choices, value=NEW, label="Network")
            with gr.Group() as made:
                features = gr.Slider(2, 1024, 64, step=1, precision=0, label="Features")
                depth = gr.Slider(1, 16, 5, step=1, precision=0, label="Layers")
                slope = gr.Slider(0.01, 1, 0.5, step=0.01, label="Negative slope")
                steps = gr.Slider(
                    0,
                    2000,
                    300,
                    step=1,
                    precision=0,
                    label="Training steps",
                    info="The network learns to rotate its rows; 0 leaves it as it is initialized.",
                )
            seed = seed_field()
            buttons = run_buttons("Run the round trip")
        with gr.Column():
            status = gr.Markdown()
            plot = image_shown("Round trip, layer by layer")
            headers = ["layer", *(name.replace("_", " ") for name in FIGURES)]
            table = gr.Dataframe(headers=headers, label="Figures", interactive=False)
    code = code_shown("As Python")

    def network_of(which: str, n: int, layers: int, s: float, count: int, start: int) -> Any:
        if which == CAPTIONER and models.captioner is not None:
            return models.captioner.network
        torch.manual_seed(start)
        network = InvertibleNetwork(n, layers, negative_slope=s)
        models.worker.watch(network)
        return train_rotation(network, count, start, str(models.processes.device))

    def work(job: Job, *asked: Any) -> list[Any]:
        network = network_of(*asked)
        generator = torch.Generator().manual_seed(asked[-1])
        x = torch.randn(ROWS, network.features, generator=generator)
        found = round_trip(network, x.to(network.layers[0].lu.device))
        figure = job.folder / "round trip.png"
        write_figure(figure, round_trip_figure(found))
        return ["", str(figure), table_of(found), as_python(models, *asked)]

    connect(
        models.worker,
        "layer",
        buttons,
        [kind, features, depth, slope, steps, seed],
        [status, plot, table, *code],
        lambda *values: [*[FINE] * 5, answer(check_seed, values[-1])],
        work,
    )
    kind.change(
        lambda which: gr.Group(visible=which == NEW),
        kind,
        made,
        queue=False,
        api_visibility="private",
    )


def round_trip_figure(found: RoundTrip) -> Figure:
    """Errors and condition numbers of each layer."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    errors, numbers = figure.subplots(2, sharex=True)
    places = range(1, len(found.layers) + 1)
    for axes, names in ((errors, FIGURES[:2]), (numbers, FIGURES[2:])):
        for name in names:
            values = [max(getattr(layer, name), LEAST) for layer in found.layers]
            axes.semilogy(places, values, "o-", label=name.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend()
    whole = f"forward {found.forward_error:.1e}, inverse {found.inverse_error:.1e}"
    errors.set(ylabel="max |error|", title=f"whole network: {whole}")
    numbers.set(xlabel="layer", ylabel="of the layer's matrix", xticks=places)
    return figure


def table_of(found: RoundTrip) -> list[list[str]]:
    """A row of figures for each layer."""
    return [
        [str(number), *(f"{getattr(layer, name):.3g}" for name in FIGURES)]
        for number, layer in enumerate(found.layers, 1)
    ]


def as_python(
    models: Models, kind: str, features: int, depth: int, slope: float, steps: int, seed: int
) -> str:
    """The Python code for a result."""
    if kind == CAPTIONER:
        imports = ["from invcap import InvertibleCaptioner", "from invcap_ext import round_trip"]
        lines = [models.load_captioner(), "network = captioner.network"]
    else:
        imports = [
            "from invcap.training.rotation import train_rotation",
            "from invcap_ext import InvertibleNetwork, round_trip",
        ]
        lines = [
            f"torch.manual_seed({seed})",
            as_call("network = InvertibleNetwork", features, depth, negative_slope=slope),
            as_call("train_rotation", Code("network"), steps, seed, device=models.names["device"]),
        ]
    return as_program(
        ["import torch", "", *imports],
        *lines,
        f"generator = torch.Generator().manual_seed({seed})",
        f"x = torch.randn({ROWS}, network.features, generator=generator)",
        "for layer in round_trip(network, x.to(network.layers[0].lu.device)).layers:",
        "    print(layer)",
    )
