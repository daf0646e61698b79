"""Prompt inversion in few steps and in words: every start and method on the same pictures.

    python benchmarks/few_steps.py --captioner runs/demo --output docs/few_steps

200 pictures whose combination of factors was in no training set of anything: not tiny-sd's, not
the learned starts', not the captioner's, nor in the captions that it chooses from. Each method runs
in a process of its own, on chunks of pictures that are kept, so that a killed run goes on;
`--method` runs one alone. Some see the first 25 pictures only, to save time.

Bounds are in nats per latent number, on a bank that no method sees. Pictures are regenerated from
each embedding without guidance, from each sentence with a guidance of 2, and judged by the nearest
rendered picture. Evaluations of the UNet are those with gradient; measuring and ranking, without,
are listed apart.

The baselines in words are our own, on the same model: PEZ descends with the nearest tokens in
place of the vectors; PH2P's ideas here are late diffusion steps alone and projection at the end.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from paper_loop import paper_loop
from search_tokens import search_tokens
from torch import Tensor
from tqdm import tqdm

from invcap import InvertibleCaptioner
from invcap.data import fit_picture, split_by_group
from invcap.data.shapes import Scene, draw, load_shapes, scenes
from invcap.diffusion.noise_samples import draw_samples, standard_error
from invcap.figures import write_figure
from invcap.files import read_tensors, write_json, write_tensors, write_text
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline, few_steps
from invcap.prompt_inversion.words import rank, read_tokens
from invcap.tiny_sd.evaluate import accuracies

COUNT, CHUNK, FEWER = 200, 25, 25
JUDGED_DRAWS = 64
PAPER_STEPS, PAPER_RATE = 5000, 3e-3
ROOM = InversionSettings(steps=60, evaluate_every=10, patience=None)
META = InversionSettings(steps=12, learning_rate=0.1, evaluate_every=4, patience=None)
PEZ_START = "a picture of one thing in the middle of the image, with a background"
PEZ = InversionSettings(steps=100, evaluate_every=20, patience=None)
PH2P = replace(PEZ, weighting="epsilon", within=(500, 900))
FACTORS = ("colour", "shape", "place", "background", "size")


@dataclass
class Found:
    """What a method gives for some pictures: P embeddings or sentences, and what that took.

    Attributes:
        hidden: (P, 77, d).
        prompts: sentences, if that is what is judged.
        gradients, forwards: UNet evaluations a picture, with gradient and without.
        at, held_out: evaluations with gradient at each measurement of the bound on the bank with
            the pictures' own seed, and those bounds (len(at), P).
    """

    hidden: Tensor
    prompts: list[str] = field(default_factory=list)
    gradients: int = 0
    forwards: float = 0
    at: list[int] = field(default_factory=list)
    held_out: Tensor = field(default_factory=lambda: torch.zeros(0, 0))


@dataclass(frozen=True)
class Problem:
    """Some of the pictures, with the numbers that they have among all, which are their seeds."""

    pipeline: PromptInversionPipeline
    captioner: InvertibleCaptioner
    scenes: list[Scene]
    seeds: list[int]

    @property
    def pictures(self) -> list:
        return [draw(scene) for scene in self.scenes]


Method = Callable[[Problem], Found]


def own_caption(problem: Problem) -> Found:
    """What the pictures were rendered from: an oracle."""
    prompts = [scene.caption() for scene in problem.scenes]
    return Found(problem.pipeline.encode_prompts(prompts), prompts)


def papers_loop(problem: Problem) -> Found:
    """The paper's loop from "a room", with the best of four step sizes (see its own benchmark)."""
    pipeline = problem.pipeline
    pipeline.unet_batch = CHUNK
    every = PAPER_STEPS // 10
    bounds, hidden = paper_loop(
        pipeline,
        pipeline.encode_images(problem.pictures),
        pipeline.encode_prompts(["a room"])[0],
        problem.seeds,
        torch.optim.Adam,
        [PAPER_RATE] * len(problem.seeds),
        PAPER_STEPS,
        every,
    )
    at = list(range(0, PAPER_STEPS + 1, every))
    return Found(hidden, gradients=PAPER_STEPS, at=at, held_out=bounds)


def inverted(start: str, settings: InversionSettings) -> Method:
    """Gradient steps over hidden states, from a start."""

    def method(problem: Problem) -> Found:
        return _inverted(problem, start, settings)

    return method


def near(start: str, steps: int, evaluate_every: int = 4) -> Method:
    """The same from a start that is near, with its own settings."""

    def method(problem: Problem) -> Found:
        settings = few_steps(problem.pipeline.schedule, steps=steps, evaluate_every=evaluate_every)
        return _inverted(problem, start, settings)

    return method


def _inverted(problem: Problem, start: str, settings: InversionSettings) -> Found:
    found = problem.pipeline.invert(
        problem.pictures,
        start,
        settings,
        seeds=problem.seeds,
        num_inference_steps=1,
        captioner=problem.captioner,
    )
    at = [settings.draws * step for step in found.histories[0].evaluated]
    held_out = torch.tensor([history.held_out for history in found.histories]).T
    gradients = settings.draws * settings.steps
    return Found(found.prompt_embeds, [], gradients, settings.held_out * len(at), at, held_out)


def over_tokens(over: str, settings: InversionSettings) -> Method:
    """Gradient steps on token vectors, read out as the nearest words."""

    def method(problem: Problem) -> Found:
        found = problem.pipeline.invert(
            problem.pictures,
            PEZ_START,
            settings,
            over,
            seeds=problem.seeds,
            num_inference_steps=1,
        )
        prompts = read_tokens(problem.pipeline, found.token_vectors)
        forwards = settings.held_out * len(found.histories[0].evaluated)
        return Found(
            problem.pipeline.encode_prompts(prompts),
            prompts,
            settings.draws * settings.steps,
            forwards,
        )

    return method


def captioned(problem: Problem) -> Found:
    """The captioner's nearest sentence of its bank."""
    prompts = [best[0].text for best in problem.captioner.caption(problem.pictures)]
    return Found(problem.pipeline.encode_prompts(prompts), prompts)


def searched(problem: Problem) -> Found:
    """Bayesian optimisation over tokens, from the captioner's nearest sentence."""
    pipeline, begun = problem.pipeline, captioned(problem).prompts
    rankings = [
        search_tokens(pipeline, latents, prompt, seed=seed)
        for latents, prompt, seed in zip(
            pipeline.encode_images(problem.pictures), begun, problem.seeds, strict=True
        )
    ]
    return _ranked(problem, rankings)


def composed(problem: Problem) -> Found:
    """Sentences composed of the captioner's, ranked by likelihood."""
    pipeline = problem.pipeline
    rankings = [
        rank(pipeline, latents, [caption.text for caption in captions], seed=seed)
        for latents, captions, seed in zip(
            pipeline.encode_images(problem.pictures),
            problem.captioner.compose(problem.pictures, 16),
            problem.seeds,
            strict=True,
        )
    ]
    return _ranked(problem, rankings)


def _ranked(problem: Problem, rankings: list) -> Found:
    prompts = [ranking.prompts[0] for ranking in rankings]
    forwards = float(np.mean([ranking.evaluations for ranking in rankings]))
    return Found(problem.pipeline.encode_prompts(prompts), prompts, 0, forwards)


METHODS: dict[str, tuple[Method, int]] = {
    "own caption": (own_caption, FEWER),
    "paper's loop": (papers_loop, COUNT),
    "a room, 60 steps": (inverted("a room", ROOM), FEWER),
    "meta": (near("meta", 0), FEWER),
    "meta, 12 steps": (inverted("meta", META), FEWER),
    "caption": (near("caption", 0), FEWER),
    "caption, 12 steps": (near("caption", 12), FEWER),
    "amortised": (near("amortised", 0), COUNT),
    "amortised, 12 steps": (near("amortised", 12), COUNT),
    "amortised, 20 steps": (near("amortised", 20), COUNT),
    "amortised, 60 steps": (near("amortised", 60, 10), FEWER),
    "words: nearest caption": (captioned, FEWER),
    "words: composed, ranked": (composed, COUNT),
    "words: Bayesian search": (searched, FEWER),
    "words: PEZ": (over_tokens("tokens", PEZ), FEWER),
    "words: PH2P": (over_tokens("token_vectors", PH2P), FEWER),
}


def chosen_scenes() -> list[Scene]:
    """What the 200 pictures show."""
    every = list(scenes())
    _, held_out = split_by_group(load_shapes(), 0.1, seed=0)
    return [every[index] for index in Random(2).sample(held_out, COUNT)]


def run_method(name: str, folder: Path, work: Path) -> None:
    """Runs a method on its pictures, 25 at a time; an error if the captioner has seen one."""
    if name not in METHODS:
        raise typer.BadParameter(f"expected one of {', '.join(METHODS)}, got {name}")
    pipeline = PromptInversionPipeline.from_pretrained()
    pipeline.set_progress_bar_config(disable=True)
    captioner, chosen = InvertibleCaptioner.from_pretrained(folder), chosen_scenes()
    seen = {scene.caption() for scene in chosen} & set(captioner.bank)
    if seen:
        raise ValueError(f"the captioner must not have seen these, but has {len(seen)}: {seen}")
    method, count = METHODS[name]
    for first in tqdm(range(0, count, CHUNK), desc=name):
        path = _paths(work, name)[first // CHUNK]
        seeds = list(range(first, first + CHUNK))
        if not path.exists():
            run_chunk(Problem(pipeline, captioner, [chosen[i] for i in seeds], seeds), method, path)


def run_chunk(problem: Problem, method: Method, path: Path) -> None:
    """Runs a method, judges what it found, and keeps both in a file."""
    pipeline = problem.pipeline
    started = time.perf_counter()
    found = method(problem)
    seconds = time.perf_counter() - started
    latents = pipeline.encode_images(problem.pictures)
    terms = []
    for seed, clean, hidden in zip(problem.seeds, latents, found.hidden, strict=True):
        generator = torch.Generator().manual_seed(COUNT + seed)
        bank = draw_samples(pipeline.schedule, JUDGED_DRAWS, tuple(clean.shape), generator)
        terms.append(pipeline.bound_terms(clean, hidden, bank))
    guidance = 2.0 if found.prompts else 1.0
    drawn = pipeline.generate(found.hidden, problem.seeds, guidance_scale=guidance)
    tensors = {
        "bound": torch.stack(terms).mean(1),
        "error": standard_error(torch.stack(terms)),
        "drawn": torch.from_numpy(np.stack([np.asarray(image) for image in drawn])),
        "held_out": found.held_out,
    }
    facts = {
        "prompts": found.prompts,
        "gradients": found.gradients,
        "forwards": found.forwards,
        "at": found.at,
        "seconds": seconds / len(problem.seeds),
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    write_tensors(path, tensors, facts=json.dumps(facts))


def summary(work: Path, names: list[str], chosen: list[Scene]) -> dict[str, dict]:
    """What each method came to over all pictures."""
    every = list(scenes())
    rendered = [draw(scene) for scene in every]
    pixels = np.zeros(0)
    result = {}
    for name in names:
        files = [read_tensors(path) for path in _paths(work, name)]
        tensors = {key: [part[key] for part, _ in files] for key in files[0][0]}
        facts = [json.loads(metadata["facts"]) for _, metadata in files]
        bound, error = (torch.cat(tensors[key]) for key in ("bound", "error"))
        drawn = torch.cat(tensors["drawn"]).numpy()
        if pixels.shape[1:] != drawn.shape[1:]:
            pixels = np.stack([fit_picture(picture, drawn.shape[1:3]) for picture in rendered])
        judged = accuracies(drawn, chosen[: len(drawn)], pixels, every)
        result[name] = {
            "pictures": len(drawn),
            "bound": bound.mean().item(),
            "standard_error": (error.square().mean() / len(bound)).sqrt().item(),
            "right": judged,
            "gradients": facts[0]["gradients"],
            "forwards": float(np.mean([fact["forwards"] for fact in facts])),
            "seconds": float(np.mean([fact["seconds"] for fact in facts])),
            "gigabytes": max(fact["gigabytes"] for fact in facts),
            "prompts": [prompt for fact in facts for prompt in fact["prompts"]],
            "at": facts[0]["at"],
            "held_out": torch.cat(tensors["held_out"], 1).tolist(),
        }
    return result


def reach(results: dict[str, dict]) -> dict[str, dict]:
    """For each method, evaluations to the bound that the paper's loop has in the end."""
    goals = np.array(results["paper's loop"]["held_out"][-1])
    found = {}
    for name, result in results.items():
        if len(result["at"]) < 2:
            continue
        reached = np.array(result["held_out"]) >= goals[: result["pictures"]]
        needed = [
            result["at"][int(column.argmax())] if column.any() else np.inf for column in reached.T
        ]
        median = float(np.median(needed))
        found[name] = {
            "reached": float(np.mean(np.isfinite(needed))),
            "median": median if np.isfinite(median) else None,
            "share_of_the_papers": median / PAPER_STEPS if np.isfinite(median) else None,
        }
    return found


def table(results: dict[str, dict]) -> str:
    """The results as Markdown."""
    heads = ["method", "pictures", "bound", *FACTORS, "evaluations", "without gradient", "s", "GB"]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join(["---"] * len(heads)) + " |"]
    for name, result in results.items():
        cells = [
            name,
            str(result["pictures"]),
            f"{result['bound']:.3f} ± {result['standard_error']:.3f}",
            *(f"{100 * result['right'][factor]:.1f} %" for factor in FACTORS),
            str(result["gradients"]),
            f"{result['forwards']:.0f}",
            f"{result['seconds']:.1f}",
            f"{result['gigabytes']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def curves(results: dict[str, dict]) -> Figure:
    """Mean bounds over evaluations with gradient."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, result in results.items():
        if len(result["at"]) > 2:
            axes.plot(
                np.maximum(result["at"], 1), np.mean(result["held_out"], 1), ".-", lw=1, label=name
            )
    goal = float(np.mean(results["paper's loop"]["held_out"][-1]))
    axes.axhline(goal, color="gray", lw=0.8, ls=":")
    axes.set(
        xscale="log",
        xlabel="UNet evaluations with gradient, 1 stands for none",
        ylabel="held-out bound, mean",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _paths(work: Path, name: str) -> list[Path]:
    slug = "".join(c if c.isalnum() else "-" for c in name)
    return [work / slug / f"{first:03}.safetensors" for first in range(0, METHODS[name][1], CHUNK)]


def main(
    output: Annotated[Path, typer.Option(help="Folder for the results, table and plot.")],
    captioner: Annotated[Path, typer.Option(help="Folder of a captioner trained on shapes.")],
    method: Annotated[str | None, typer.Option(help="Run this one alone.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for what is found.")] = Path("runs/few_steps"),
) -> None:
    """Runs the methods that are not done, then sums up all; or one method alone."""
    if method is not None:
        run_method(method, captioner, work)
        return
    for name in METHODS:
        if not all(path.exists() for path in _paths(work, name)):
            subprocess.run([sys.executable, *sys.argv, "--method", name], check=True)
    results = summary(work, list(METHODS), chosen_scenes())
    write_text(output / "table.md", table(results))
    write_json(output / "reach.json", reach(results))
    write_figure(output / "curves.png", curves(results))
    for result in results.values():
        del result["at"], result["held_out"]
    write_json(output / "results.json", results)


if __name__ == "__main__":
    typer.run(main)
