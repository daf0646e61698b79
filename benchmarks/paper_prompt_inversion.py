"""The prompt inversion paper on tiny-sd: its Table 1, its Figures 3 to 5, and what ours costs.

    python benchmarks/paper_prompt_inversion.py --output docs/prompt_inversion

Each part writes its figures into results.json and its pictures beside it as soon as it is done;
`--part` runs one alone. Bounds are in nats per latent number, held-out unless it says otherwise.

- table_1: a red square on black under the paper's three prompts.
- comparisons: held-out pictures, each under its own caption and under three captions with one
  factor changed, all on the same noise samples.
- figures_3_4: from "a room" to a red square in 5,000 steps.
- figure_5: the paper's loop with a step size that explodes, and ours, over 8,000 steps of one UNet
  evaluation each, from 20 seeds. A run has collapsed when its bound ends below that of its start.
- pictures: held-out pictures from "a room" with the default settings, and what is drawn from what
  is found, judged by the drawing that fits best.
- evaluations: how many UNet evaluations with gradient each needs to the bound that the paper's
  loop, with the best of several step sizes, has after 5,000. Measuring is not counted.

Pictures are drawings, each with deviations of its own. All results are of one model, which
results.json names by a hash of its weights.

Source: "Image captioning with text-to-image models".
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy as np
import torch
import typer
from held_out import drawing, held_out_scenes
from matplotlib.figure import Figure
from paper_loop import paper_loop
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from invcap.data.shapes import COLOURS, SHAPES, Scene
from invcap.diffusion.conditioning import concatenate
from invcap.figures import write_figure, write_image
from invcap.files import read_json, write_json
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.prompt_inversion.output import PromptInversionOutput
from invcap.prompt_inversion.report import bounds_figure, strip
from invcap.tiny_sd.evaluate import accuracies

START = "a room"
TARGET = Scene("medium", "red", "square", "in the center", "gray")
TABLE_1 = tuple(
    f"a {thing} in the center of the image, black background"
    for thing in ("red square", "red circle", "green square")
)
EXPLODING = 0.3
# For each family, step sizes of the paper's loop, of which the best is taken, and our settings.
# Hidden states of Stable Diffusion 3 are not normalized: tiny-sd3's are sixty times as large.
OURS = InversionSettings(steps=125, weighting="elbo", evaluate_every=4, patience=None)
CHOICES = {
    "StableDiffusion": ((1e-3, 3e-3, 1e-2, 3e-2), OURS),
    "StableDiffusion3": (
        (3.0, 10.0, 30.0, 100.0),
        replace(
            OURS,
            steps=104,
            draws=2,
            learning_rate=0.5,
            lr_decay_power=0.4,
            momentum=0.5,
            clip=1.0,
        ),
    ),
}
Result = dict[str, Any]


def table_1(pipeline: PromptInversionPipeline, draws: int = 1024) -> Result:
    """A red square on black under the paper's prompts, with differences to the first."""
    picture = drawing(replace(TARGET, background="black"))
    found = pipeline.log_likelihood(picture, TABLE_1, draws)
    return {
        prompt: {
            "bound": found.bound[i].item(),
            "standard_error": found.standard_error[i].item(),
            "difference": found.difference(i, 0),
        }
        for i, prompt in enumerate(TABLE_1)
    }


def comparisons(
    pipeline: PromptInversionPipeline, count: int = 200, draws: int = 128, seed: int = 0
) -> Result:
    """How often a held-out picture's own caption beats one with a factor changed."""
    random = Random(seed)
    wins: dict[str, list[tuple[bool, bool]]] = {"colour": [], "shape": [], "background": []}
    for scene in tqdm(held_out_scenes(count, seed), desc="comparisons"):
        changed = {
            "colour": replace(scene, colour=other_colour(scene, random)),
            "shape": replace(scene, shape=random.choice([s for s in SHAPES if s != scene.shape])),
            "background": replace(scene, background=other_colour(scene, random)),
        }
        prompts = [scene.caption(), *(other.caption() for other in changed.values())]
        found = pipeline.log_likelihood(
            drawing(scene), prompts, draws, torch.Generator().manual_seed(random.getrandbits(32))
        )
        for position, factor in enumerate(changed, 1):
            difference, error = found.difference(0, position)
            wins[factor].append((difference > 0, difference > 2 * error))
    return {
        factor: dict(
            zip(("right", "right_by_two_errors"), np.mean(won, axis=0).tolist(), strict=True)
        )
        for factor, won in wins.items()
    }


def pictures(
    pipeline: PromptInversionPipeline,
    output: Path,
    count: int = 24,
    shown: int = 6,
    settings: InversionSettings | None = None,
) -> Result:
    """Held-out pictures from "a room": their bounds, and what is drawn from their embeddings."""
    settings = settings or InversionSettings()
    chosen = held_out_scenes(count, seed=1)
    targets = [drawing(scene) for scene in chosen]
    started = time.perf_counter()
    found = pipeline.invert(targets, START, settings)
    seconds = time.perf_counter() - started
    captions = [
        pipeline.log_likelihood(target, [START, scene.caption()], settings.held_out)
        for target, scene in zip(targets, chosen, strict=True)
    ]
    rows = [way_strip(pipeline, found, index, targets[index]) for index in range(min(shown, count))]
    write_image(output / "pictures.png", Image.fromarray(np.vstack(rows)))
    return {
        "settings": asdict(settings),
        "drawn_right": accuracies(found.images, chosen),
        "rise": float(np.mean([h.held_out[-1] - h.held_out[0] for h in found.histories])),
        "rise_of_the_own_caption": float(np.mean([c.difference(1, 0)[0] for c in captions])),
        "seconds_a_picture": seconds / count,
    }


def figures_3_4(pipeline: PromptInversionPipeline, output: Path, steps: int = 5000) -> Result:
    """From "a room" to a red square: the bound and the pictures on the way."""
    settings = steady(steps, snapshots=8)
    found = pipeline.invert(drawing(TARGET), START, settings)
    write_image(output / "figure_3.png", way_strip(pipeline, found, 0, drawing(TARGET)))
    write_figure(output / "figure_4.png", bounds_figure(found.histories))
    history = found.histories[0]
    return {
        "settings": asdict(settings),
        "pictures_after": [*found.snapshots, found.steps[0]],
        "start": history.held_out[0],
        "end": history.held_out[-1],
        "best": found.log_likelihood[0].item(),
        "standard_error": found.standard_error[0].item(),
        "rollbacks": history.rollbacks,
    }


def figure_5(
    pipeline: PromptInversionPipeline, output: Path, steps: int = 8000, seeds: int = 20
) -> Result:
    """The paper's loop with too large a step size, and ours, from many seeds."""
    measure_every = max(1, steps // 40)
    theirs = papers_bounds(pipeline, range(seeds), [EXPLODING] * seeds, steps, measure_every)
    settings = replace(steady(steps), evaluate_every=measure_every)
    found = pipeline.invert([drawing(TARGET)] * seeds, START, settings)
    ours = torch.tensor([history.held_out for history in found.histories]).T
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, bounds, colour in (("the paper's", theirs, "C3"), ("ours", ours, "C0")):
        at = np.linspace(0, steps, len(bounds))
        axes.plot(at, bounds, color=colour, lw=0.6, label=[name, *[None] * (seeds - 1)])
    axes.set(xlabel="step, one UNet evaluation each", ylabel="held-out bound")
    axes.set_ylim(min(ours.min().item(), theirs[0].min().item()) - 0.5, None)
    axes.grid(alpha=0.3)
    axes.legend()
    write_figure(output / "figure_5.png", figure)
    return {
        "learning_rate": EXPLODING,
        **{
            name: {
                "collapsed": int((~(bounds[-1] >= bounds[0])).sum()),
                "seeds": seeds,
                "start": spread(bounds[0]),
                "best": spread(bounds.nan_to_num(-torch.inf).amax(0)),
                "end": spread(bounds[-1]),
            }
            for name, bounds in (("paper", theirs), ("ours", ours))
        },
    }


def evaluations(
    pipeline: PromptInversionPipeline,
    steps: int = 5000,
    seeds: int = 8,
    rates: Sequence[float] | None = None,
    settings: InversionSettings | None = None,
) -> Result:
    """UNet evaluations to the bound that the paper's loop has in the end."""
    chosen = CHOICES[type(pipeline.model).__name__]
    rates, settings = rates or chosen[0], settings or chosen[1]
    every_rate = [rate for rate in rates for _ in range(seeds)]
    bounds = papers_bounds(pipeline, [*range(seeds)] * len(rates), every_rate, steps, steps)
    ends = bounds[-1].view(len(rates), seeds).nan_to_num(-torch.inf)
    best = int(ends.median(1).values.argmax())
    target = ends[best]
    found = pipeline.invert([drawing(TARGET)] * seeds, START, settings)
    needed = []
    for history, goal in zip(found.histories, target.tolist(), strict=True):
        measured = zip(history.evaluated, history.held_out, strict=True)
        needed.append(next((settings.draws * at for at, bound in measured if bound >= goal), None))
    known = [n if n is not None else float("inf") for n in needed]
    return {
        "paper": {
            "evaluations": steps,
            "learning_rate": rates[best],
            "bound": spread(target),
            "bound_by_learning_rate": {
                str(rate): spread(row) for rate, row in zip(rates, ends, strict=True)
            },
        },
        "ours": {
            "evaluations": needed,
            "median": float(np.median(known)),
            "share_of_the_papers": float(np.median(known)) / steps,
            "settings": asdict(settings),
        },
    }


def steady(steps: int, snapshots: int = 2) -> InversionSettings:
    """Ours at the paper's own cost, one UNet evaluation a step, never stopping early."""
    return InversionSettings(
        steps=steps,
        draws=1,
        weighting="elbo",
        learning_rate=0.02,
        bank=max(1, steps),
        evaluate_every=max(1, steps // 100),
        patience=None,
        snapshots=snapshots,
    )


def papers_bounds(
    pipeline: PromptInversionPipeline,
    seeds: Sequence[int],
    rates: Sequence[float],
    steps: int,
    measure_every: int,
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
) -> Tensor:
    """The bounds of the paper's loop from "a room" to the red square; see `paper_loop`."""
    model = pipeline.model
    latents = model.encode_images([drawing(TARGET)] * len(seeds))
    start = model.encode_prompts([START])
    return paper_loop(model, latents, start, seeds, optimizer, rates, steps, measure_every)[0]


def way_strip(
    pipeline: PromptInversionPipeline, found: PromptInversionOutput, index: int, target: Image.Image
) -> Image.Image:
    """Images on the way to what was found for one picture, and that picture."""
    way = concatenate([states[[index]] for states in found.snapshots.values()])
    return strip([*pipeline.generate(way, [index] * len(way)), found.images[index], target])


def other_colour(scene: Scene, random: Random) -> str:
    """One that the scene does not have."""
    return random.choice([name for name in COLOURS if name not in (scene.colour, scene.background)])


def spread(values: Tensor) -> dict[str, float | None]:
    """Least, median and most; None where that is not a number."""
    found = {"min": values.min(), "median": values.median(), "max": values.max()}
    return {name: value.item() if value.isfinite() else None for name, value in found.items()}


def parts(pipeline: PromptInversionPipeline, output: Path) -> dict[str, Callable[[], Result]]:
    """What the script runs, by name."""
    return {
        "table_1": lambda: table_1(pipeline),
        "comparisons": lambda: comparisons(pipeline),
        "pictures": lambda: pictures(pipeline, output),
        "figures_3_4": lambda: figures_3_4(pipeline, output),
        "figure_5": lambda: figure_5(pipeline, output),
        "evaluations": lambda: evaluations(pipeline),
    }


def main(
    output: Annotated[Path, typer.Option(help="Folder for results.json and the pictures.")],
    model: Annotated[str | None, typer.Option(help="Folder or hub name; else tiny-sd.")] = None,
    part: Annotated[list[str] | None, typer.Option(help="Run this alone; may be repeated.")] = None,
) -> None:
    """Reproduces the prompt inversion paper."""
    pipeline = PromptInversionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(leave=False)
    known = parts(pipeline, output)
    for name in part or known:
        if name not in known:
            raise typer.BadParameter(f"expected one of {', '.join(known)}, got {name}")
    path = output / "results.json"
    results = read_json(path) if path.exists() else {"model": pipeline.model.fingerprint}
    if results.get("model") != pipeline.model.fingerprint:
        raise ValueError(f"{path}: has results of another model; give another folder")
    for name in part or known:
        started = time.perf_counter()
        result = known[name]()
        results[name] = result | {"seconds": time.perf_counter() - started}
        write_json(path, results)
        print(json.dumps({name: results[name]}, indent=2))


if __name__ == "__main__":
    typer.run(main)
