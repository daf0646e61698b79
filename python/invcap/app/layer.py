"""How exactly a network inverts itself, layer by layer."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from matplotlib.figure import Figure

from invcap.app.commands import Code, as_call
from invcap.app.fields import answer, check_seed, check_whole, fine, image_shown, seed_field
from invcap.app.jobs import Job
from invcap.app.models import Models
from invcap.figures import write_figure
from invcap.files import read_tensors
from invcap.training.rotation import train_rotation
from invcap_ext import InvertibleNetwork, RoundTrip, round_trip

ROWS = 256
MOST_FEATURES, MOST_DEPTH, MOST_STEPS = 1024, 16, 2000
NEW, CAPTIONER, FILE = "A new one", "The captioner's", "From a file"
HEADERS = ["layer", "forward error", "inverse error", "condition number", "amplification"]


@dataclass(frozen=True)
class Asked:
    """Which network, and of which seed.

    Attributes:
        kind: `NEW`, `CAPTIONER` or `FILE`.
        features, depth, steps: of a new one.
        path: of a file's.
        slope: of a new one or a file's.
        seed: of the rows, and of a new one.
    """

    kind: str
    features: int
    depth: int
    steps: int
    path: str | None
    slope: float
    seed: int


def layer_tab(models: Models) -> None:
    """Lays out the tab."""
    gr.Markdown(
        "A layer is y = leaky_relu(L U x + b), and its inverse two triangular solves. This runs "
        f"{ROWS} rows through a network and back and shows where the round trip loses digits: "
        "where a condition number is high."
    )
    choices = [NEW, *([CAPTIONER] if models.captioner else []), FILE]
    with gr.Row():
        with gr.Column():
            kind = gr.Radio(choices, value=NEW, label="Network")
            features = gr.Slider(2, MOST_FEATURES, 64, step=1, precision=0, label="Features")
            depth = gr.Slider(1, MOST_DEPTH, 5, step=1, precision=0, label="Layers")
            steps = gr.Slider(
                0,
                MOST_STEPS,
                300,
                step=50,
                precision=0,
                label="Training steps",
                info="The network learns to rotate its rows; 0 leaves it as it is initialized.",
            )
            file = gr.File(
                label="model.safetensors of `invcap train`, or a network's state_dict",
                file_types=[".safetensors"],
                visible=False,
            )
            slope = gr.Slider(0.01, 1, 0.5, step=0.01, label="Negative slope")
            seed = seed_field()
            with gr.Row():
                run = gr.Button("Run the round trip", variant="primary")
                cancel = gr.Button("Cancel")
        with gr.Column():
            plot = image_shown("Round trip, layer by layer")
            table = gr.Dataframe(headers=HEADERS, label="Figures", interactive=False)
            python = gr.Textbox(
                label="As Python", interactive=False, buttons=["copy"], elem_classes="code"
            )

    def measure(
        which: str, n: int, layers: int, count: int, path: str | None, s: float, start: int
    ) -> Generator[Any, None, None]:
        asked = Asked(which, n, layers, count, path, s, start)

        def work(job: Job) -> tuple[RoundTrip, Path]:
            network = network_of(models, asked)
            generator = torch.Generator().manual_seed(start)
            x = torch.randn(ROWS, network.features, generator=generator)
            found = round_trip(network, x.to(network.layers[0].lu.device))
            figure = job.folder / "round trip.png"
            write_figure(figure, round_trip_figure(found))
            return found, figure

        def give(result: tuple[RoundTrip, Path]) -> tuple[Any, ...]:
            found, figure = result
            return str(figure), table_of(found), as_python(models, asked)

        yield from models.worker.run(work, give)

    def check(
        which: str, n: int, layers: int, count: int, path: str | None, s: float, start: float | None
    ) -> list[dict[str, Any]]:
        return [
            answer(fine),
            answer(check_whole, "Features", n, 2, MOST_FEATURES),
            answer(check_whole, "Layers", layers, 1, MOST_DEPTH),
            answer(check_whole, "Training steps", count, 0, MOST_STEPS),
            answer(load_network, path, s) if which == FILE else answer(fine),
            answer(fine),
            answer(check_seed, start),
        ]

    event = run.click(
        measure,
        [kind, features, depth, steps, file, slope, seed],
        [plot, table, python],
        validator=check,
        concurrency_id=models.queue,
        concurrency_limit=1,
        api_name="layer",
    )
    cancel.click(None, cancels=[event])
    kind.change(
        lambda which: (
            *[gr.update(visible=which == NEW)] * 3,
            gr.update(visible=which == FILE),
            gr.update(visible=which != CAPTIONER),
        ),
        kind,
        [features, depth, steps, file, slope],
        queue=False,
        api_visibility="private",
    )


def network_of(models: Models, asked: Asked) -> InvertibleNetwork:
    """The network that was asked for, trained if it is a new one."""
    if asked.kind == CAPTIONER and models.captioner is not None:
        return models.captioner.network
    device = models.processes.device
    if asked.kind == FILE:
        return load_network(asked.path, asked.slope).to(device)
    torch.manual_seed(asked.seed)
    network = InvertibleNetwork(asked.features, asked.depth, negative_slope=asked.slope)
    models.worker.watch(network)
    return train_rotation(network, asked.steps, asked.seed, str(device))


def load_network(path: str | None, slope: float) -> InvertibleNetwork:
    """A network from a file of its own weights, or of a captioner's.

    Raises:
        ValueError: it has no network.
    """
    if path is None:
        raise ValueError("Choose a file first.")
    try:
        tensors, _ = read_tensors(Path(path))
    except ValueError:
        raise ValueError("This is not a safetensors file.") from None
    weights = {
        name.removeprefix("network."): tensor
        for name, tensor in tensors.items()
        if name.removeprefix("network.").startswith("layers.")
    }
    matrices = [tensor for name, tensor in weights.items() if name.endswith(".lu")]
    if not matrices or matrices[0].ndim != 2:
        raise ValueError("The file has no InvertibleNetwork: expected layers.0.lu and so on.")
    network = InvertibleNetwork(len(matrices[0]), len(matrices), negative_slope=slope)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"The file has no InvertibleNetwork: {error}") from None
    return network.eval().requires_grad_(False)


def round_trip_figure(found: RoundTrip) -> Figure:
    """Errors and condition numbers of each layer."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    errors, numbers = figure.subplots(2, sharex=True)
    places = range(1, len(found.layers) + 1)
    errors.set_yscale("symlog", linthresh=1e-8)
    numbers.set_yscale("log")
    for axes, names in (
        (errors, ("forward_error", "inverse_error")),
        (numbers, ("condition_number", "amplification")),
    ):
        for name in names:
            values = [getattr(layer, name) for layer in found.layers]
            axes.plot(places, values, "o-", label=name.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend()
    whole = f"forward {found.forward_error:.1e}, inverse {found.inverse_error:.1e}"
    errors.set(ylabel="max |error|", title=f"whole network: {whole}")
    numbers.set(xlabel="layer", ylabel="of the layer's matrix", xticks=places)
    return figure


def table_of(found: RoundTrip) -> list[list[str]]:
    """The figures of each layer."""
    return [
        [
            str(number),
            f"{layer.forward_error:.2e}",
            f"{layer.inverse_error:.2e}",
            f"{layer.condition_number:.4g}",
            f"{layer.amplification:.4g}",
        ]
        for number, layer in enumerate(found.layers, 1)
    ]


def as_python(models: Models, asked: Asked) -> str:
    """The Python of a result."""
    lines = ["import torch", "from invcap_ext import InvertibleNetwork, round_trip"]
    if asked.kind == CAPTIONER:
        folder = models.names["captioner"]
        lines[1] = "from invcap import InvertibleCaptioner\nfrom invcap_ext import round_trip"
        lines += ["", f"network = InvertibleCaptioner.from_pretrained({folder!r}).network"]
    elif asked.kind == FILE and asked.path is not None:
        network = load_network(asked.path, asked.slope)
        lines += [
            "from safetensors.torch import load_file",
            "",
            f"weights = load_file({Path(asked.path).name!r})",
            "weights = {k.removeprefix('network.'): v for k, v in weights.items()}",
            "weights = {k: v for k, v in weights.items() if k.startswith('layers.')}",
            _made(network.features, len(network.layers), asked.slope),
            "network.load_state_dict(weights)",
        ]
    else:
        lines += [
            "from invcap.training.rotation import train_rotation",
            "",
            f"torch.manual_seed({asked.seed})",
            _made(asked.features, asked.depth, asked.slope),
            as_call("train_rotation", Code("network"), steps=asked.steps, seed=asked.seed),
        ]
    lines += [
        f"generator = torch.Generator().manual_seed({asked.seed})",
        f"x = torch.randn({ROWS}, network.features, generator=generator)",
        "for layer in round_trip(network, x).layers:",
        "    print(layer)",
    ]
    return "\n".join(lines)


def _made(features: int, depth: int, slope: float) -> str:
    return as_call("network = InvertibleNetwork", features, depth, negative_slope=slope)
