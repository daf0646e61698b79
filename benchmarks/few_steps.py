"""Prompt inversion in few steps and in words: every start and method on the same pictures.

    python benchmarks/few_steps.py --captioner runs/demo --output docs/few_steps

100 pictures whose combination of factors was in no training set of anything: not tiny-sd's, not
the learned starts', not the captioner's, nor in the captions that it chooses from. Each method runs
in a process of its own, on chunks of pictures that are kept, so that a killed run resumes;
`--method` runs one alone. Some see the first 25 or 50 pictures only, to save time.

Bounds are in nats per latent number, on noise samples that no method sees. Pictures are regenerated
from each embedding without guidance, from each sentence with a guidance of 3, and judged by
the drawing that fits best. Evaluations of the UNet are those with gradient; measuring and ranking,
without, are listed apart.

The baselines in words are our own, on the same model: PEZ descends with the nearest tokens in
place of the vectors; PH2P's ideas here are late diffusion steps alone and projection at the end.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from held_out import drawing, held_out_scenes
from matplotlib.figure import Figure
from paper_loop import paper_loop
from PIL import Image
from search_tokens import search_tokens
from torch import Tensor
from tqdm import tqdm

from invcap import InvertibleCaptioner
from invcap.data.shapes import Scene
from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.noise_samples import draw_samples, stack, standard_error
from invcap.figures import write_figure
from invcap.files import read_tensors, write_json, write_tensors, write_text
from invcap.hashing import digest
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline, few_steps
from invcap.prompt_inversion.objective import bound_terms
from invcap.prompt_inversion.tokens import read_vectors
from invcap.prompt_inversion.words import Ranking, rank
from invcap.tiny_sd.evaluate import accuracies

COUNT, CHUNK, FEWER = 100, 25, 25
JUDGED_DRAWS = 64
PAPER_STEPS, PAPER_RATE = 5000, 3e-3
ROOM = InversionSettings(steps=60, evaluate_every=10, patience=None)
META = InversionSettings(steps=12, learning_rate=0.1, evaluate_every=4, patience=None)
PEZ_START = "a picture of one thing in the middle of the image, with a background"
PEZ = InversionSettings(steps=100, evaluate_every=20, patience=None)
PH2P = replace(PEZ, weighting="epsilon", timestep_range=(500, 900))
FACTORS = ("colour", "shape", "place", "background", "size")
Result = dict[str, Any]


@dataclass
class Found:
    """The results of a method for some pictures, and their costs.

    Attributes:
        conditioning: that of a prompt for each picture.
        prompts: sentences, if these are judged.
        gradients, forwards: UNet evaluations per picture, with gradient and without.
        at, held_out: evaluations with gradient before each measurement of the held-out bound, and
            these bounds (len(at), P), on noise samples from the pictures' seeds.
    """

    conditioning: Conditioning
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
    scenes: Sequence[Scene]
    seeds: Sequence[int]

    @cached_property
    def pictures(self) -> list[Image.Image]:
        return [drawing(scene) for scene in self.scenes]

    @cached_property
    def latents(self) -> Tensor:
        return self.pipeline.model.encode_images(self.pictures)


Method = Callable[[Problem], Found]


def in_words(
    problem: Problem, prompts: list[str], gradients: int = 0, forwards: float = 0
) -> Found:
    """The results of a method that finds sentences."""
    conditioning = problem.pipeline.model.encode_prompts(prompts)
    return Found(conditioning, prompts, gradients, forwards)


def own_caption(problem: Problem) -> Found:
    """The captions that the pictures were rendered from: an oracle."""
    return in_words(problem, [scene.caption() for scene in problem.scenes])


def papers_loop(problem: Problem) -> Found:
    """The paper's loop from "a room", with the best of four step sizes (see its own benchmark)."""
    model, every = problem.pipeline.model, PAPER_STEPS // 10
    bounds, prompts = paper_loop(
        model,
        problem.latents,
        model.encode_prompts(["a room"]),
        problem.seeds,
        torch.optim.Adam,
        [PAPER_RATE] * len(problem.seeds),
        PAPER_STEPS,
        every,
    )
    at = list(range(0, PAPER_STEPS + 1, every))
    return Found(prompts, gradients=PAPER_STEPS, at=at, held_out=bounds)


def inverted(
    start: str, settings: InversionSettings | None = None, over: str = "hidden_states", **few: int
) -> Method:
    """Gradient steps from a start, with the settings of a warm start, changed by `few`."""

    def method(problem: Problem) -> Found:
        pipeline = problem.pipeline
        chosen = settings or few_steps(pipeline.model.schedule, **few)
        found = pipeline.invert(
            problem.pictures,
            start,
            chosen,
            over,
            seeds=problem.seeds,
            num_inference_steps=1,
            captioner=problem.captioner,
        )
        at = [chosen.draws * step for step in found.histories[0].evaluated]
        gradients, forwards = chosen.draws * chosen.steps, chosen.held_out * len(at)
        if over != "hidden_states":
            prompts = read_vectors(pipeline.model, found.token_vectors)
            return in_words(problem, prompts, gradients, forwards)
        held_out = torch.tensor([history.held_out for history in found.histories]).T
        return Found(Conditioning(found.conditioning), [], gradients, forwards, at, held_out)

    return method


def captioned(problem: Problem) -> Found:
    """The captioner's nearest sentence of its candidates."""
    return in_words(problem, [best[0].text for best in problem.captioner.caption(problem.pictures)])


def searched(problem: Problem) -> Found:
    """Bayesian optimization over tokens, from the captioner's nearest sentence."""
    model, begun = problem.pipeline.model, captioned(problem).prompts
    return ranked(
        problem,
        [
            search_tokens(model, latents, prompt, seed=seed)
            for latents, prompt, seed in zip(problem.latents, begun, problem.seeds, strict=True)
        ],
    )


def composed(problem: Problem) -> Found:
    """Sentences composed of the captioner's, ranked by likelihood."""
    model, composed = problem.pipeline.model, problem.captioner.compose(problem.pictures, 16)
    return ranked(
        problem,
        [
            rank(model, latents, [caption.text for caption in captions], seed=seed)
            for latents, captions, seed in zip(
                problem.latents, composed, problem.seeds, strict=True
            )
        ],
    )


def ranked(problem: Problem, rankings: list[Ranking]) -> Found:
    """The likeliest sentence of each ranking."""
    forwards = float(np.mean([ranking.evaluations for ranking in rankings]))
    return in_words(problem, [ranking.prompts[0] for ranking in rankings], forwards=forwards)


METHODS: dict[str, tuple[Method, int]] = {
    "own caption": (own_caption, FEWER),
    "paper's loop": (papers_loop, COUNT // 2),
    "a room, 60 steps": (inverted("a room", ROOM), FEWER),
    "meta": (inverted("meta", steps=0), FEWER),
    "meta, 12 steps": (inverted("meta", META), FEWER),
    "caption": (inverted("caption", steps=0), FEWER),
    "caption, 12 steps": (inverted("caption"), FEWER),
    "amortised": (inverted("amortised", steps=0), COUNT),
    "amortised, 12 steps": (inverted("amortised"), COUNT),
    "amortised, 20 steps": (inverted("amortised", steps=20), COUNT),
    "amortised, 60 steps": (inverted("amortised", steps=60, evaluate_every=10), FEWER),
    "words: nearest caption": (captioned, FEWER),
    "words: composed, ranked": (composed, COUNT),
    "words: Bayesian search": (searched, FEWER),
    "words: PEZ": (inverted(PEZ_START, PEZ, "tokens"), FEWER),
    "words: PH2P": (inverted(PEZ_START, PH2P, "token_vectors"), FEWER),
}


class Bench:
    """The models and the pictures, and a folder of what was found with just these.

    Args:
        captioner: its folder.
        work: folder of such folders.
        model: folder or hub name of a model; by default tiny-sd.

    Raises:
        ValueError: the captioner has seen one of the pictures.
    """

    def __init__(self, captioner: Path, work: Path, model: str | None = None) -> None:
        self.pipeline = PromptInversionPipeline.from_pretrained(model)
        self.pipeline.set_progress_bar_config(disable=True)
        self.captioner = InvertibleCaptioner.from_pretrained(captioner)
        self.scenes = held_out_scenes(COUNT, seed=2)
        seen = {scene.caption() for scene in self.scenes} & set(self.captioner.candidates)
        if seen:
            raise ValueError(f"{captioner}: must not have seen the pictures, but has {len(seen)}")
        files = [captioner / "model.safetensors", captioner / "captions.json"]
        contents = (np.frombuffer(file.read_bytes(), np.uint8) for file in files)
        learned = self.pipeline.learned_starts().fingerprint
        self.work = work / digest(self.pipeline.model.fingerprint, learned, *contents)

    def files(self, name: str) -> list[Path]:
        """The file of each chunk of a method's pictures."""
        slug = "".join(c if c.isalnum() else "-" for c in name)
        firsts = range(0, METHODS[name][1], CHUNK)
        return [self.work / slug / f"{first:03}.safetensors" for first in firsts]

    def run(self, name: str) -> None:
        """Runs a method on the chunks of its pictures that are not done."""
        for number, path in enumerate(tqdm(self.files(name), desc=name)):
            seeds = range(number * CHUNK, (number + 1) * CHUNK)
            scenes = [self.scenes[seed] for seed in seeds]
            if not path.exists():
                run_chunk(
                    Problem(self.pipeline, self.captioner, scenes, seeds), METHODS[name][0], path
                )


def run_chunk(problem: Problem, method: Method, path: Path) -> None:
    """Runs a method, judges what it found, and keeps both in a file."""
    model, started = problem.pipeline.model, time.perf_counter()
    found = method(problem)
    seconds = time.perf_counter() - started
    shape = tuple(problem.latents.shape[1:])
    generators = [torch.Generator().manual_seed(COUNT + seed) for seed in problem.seeds]
    samples = stack([draw_samples(model.schedule, JUDGED_DRAWS, shape, one) for one in generators])
    terms = bound_terms(model, problem.latents, found.conditioning, samples)
    guidance = 3.0 if found.prompts else 1.0
    drawn = model.generate(found.conditioning, problem.seeds, guidance_scale=guidance)
    tensors = {
        "bound": terms.mean(1),
        "error": standard_error(terms),
        "drawn": torch.from_numpy(np.stack([np.asarray(image) for image in drawn])),
        "held_out": found.held_out,
    }
    facts = {name: getattr(found, name) for name in ("prompts", "gradients", "forwards", "at")}
    facts["seconds"] = seconds / len(problem.seeds)
    facts["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    write_tensors(path, tensors, facts=json.dumps(facts))


def summary(paths: Sequence[Path], scenes: Sequence[Scene]) -> Result:
    """The results of a method over all its pictures, which are the first scenes."""
    files = [read_tensors(path) for path in paths]
    tensors = {key: [part[key] for part, _ in files] for key in files[0][0]}
    facts = [json.loads(metadata["facts"]) for _, metadata in files]
    bound, error, drawn = (torch.cat(tensors[key]) for key in ("bound", "error", "drawn"))
    images = [Image.fromarray(pixels) for pixels in drawn.numpy()]
    return {
        "pictures": len(images),
        "bound": bound.mean().item(),
        "standard_error": (error.square().mean() / len(bound)).sqrt().item(),
        "right": accuracies(images, scenes[: len(images)]),
        "gradients": facts[0]["gradients"],
        "forwards": float(np.mean([fact["forwards"] for fact in facts])),
        "seconds": float(np.mean([fact["seconds"] for fact in facts])),
        "gigabytes": max(fact["gigabytes"] for fact in facts),
        "prompts": [prompt for fact in facts for prompt in fact["prompts"]],
        "at": facts[0]["at"],
        "held_out": torch.cat(tensors["held_out"], 1).tolist(),
    }


def reach(results: dict[str, Result]) -> dict[str, Result]:
    """For each method, the evaluations until the final bound of the paper's loop is reached."""
    goals, found = np.array(results["paper's loop"]["held_out"][-1]), {}
    for name, result in results.items():
        if len(result["at"]) > 1:
            pictures = min(result["pictures"], len(goals))
            reached = np.array(result["held_out"])[:, :pictures] >= goals[:pictures]
            at = np.array([*result["at"], np.inf])
            needed = at[np.where(reached.any(0), reached.argmax(0), -1)]
            median = float(np.median(needed))
            found[name] = {
                "reached": float(np.isfinite(needed).mean()),
                "median": median if np.isfinite(median) else None,
                "share_of_the_papers": median / PAPER_STEPS if np.isfinite(median) else None,
            }
    return found


def table(results: dict[str, Result]) -> str:
    """The results as Markdown."""
    heads = ["method", "pictures", "bound", *FACTORS, "evaluations", "without gradient", "s", "GB"]
    rows = [heads, ["---"] * len(heads)]
    for name, result in results.items():
        rows.append(
            [
                name,
                str(result["pictures"]),
                f"{result['bound']:.3f} ± {result['standard_error']:.3f}",
                *(f"{100 * result['right'][factor]:.1f} %" for factor in FACTORS),
                str(result["gradients"]),
                f"{result['forwards']:.0f}",
                f"{result['seconds']:.1f}",
                f"{result['gigabytes']:.1f}",
            ]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def curves(results: dict[str, Result]) -> Figure:
    """Mean bounds over evaluations with gradient."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, result in results.items():
        if len(result["at"]) > 2:
            means = np.mean(result["held_out"], 1)
            axes.plot(np.maximum(result["at"], 1), means, ".-", lw=1, label=name)
    goal = float(np.mean(results["paper's loop"]["held_out"][-1]))
    axes.axhline(goal, color="gray", lw=0.8, ls=":")
    label = "UNet evaluations with gradient, 1 stands for none"
    axes.set(xscale="log", xlabel=label, ylabel="held-out bound, mean")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main(
    output: Annotated[Path, typer.Option(help="Folder for the results, table and plot.")],
    captioner: Annotated[Path, typer.Option(help="Folder of a captioner trained on shapes.")],
    method: Annotated[str | None, typer.Option(help="Run this one alone.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for what is found.")] = Path("runs/few_steps"),
) -> None:
    """Runs the methods that are not done, then sums up all; or one method alone."""
    if method is not None and method not in METHODS:
        raise typer.BadParameter(f"expected one of {', '.join(METHODS)}, got {method}")
    bench = Bench(captioner, work)
    if method is not None:
        bench.run(method)
        return
    for name in METHODS:
        if not all(path.exists() for path in bench.files(name)):
            subprocess.run([sys.executable, *sys.argv, "--method", name], check=True)
    results = {name: summary(bench.files(name), bench.scenes) for name in METHODS}
    write_text(output / "table.md", table(results))
    write_json(output / "reach.json", reach(results))
    write_figure(output / "curves.png", curves(results))
    for result in results.values():
        del result["at"], result["held_out"]
    write_json(output / "results.json", results)


if __name__ == "__main__":
    typer.run(main)
