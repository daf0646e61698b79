"""Scores prompts by likelihood and finds the most likely one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from invcap.data.images import ImageSource, as_images
from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.families import load_model, stable_diffusion
from invcap.diffusion.model import FrozenTextToImage, few
from invcap.diffusion.noise_samples import draw_samples
from invcap.prompt_inversion.identity import identity_of
from invcap.prompt_inversion.inputs import check_draws, check_inputs, resolve_seeds
from invcap.prompt_inversion.joint import (
    Negative,
    Together,
    check_joint,
    with_bounds_negated,
)
from invcap.prompt_inversion.likelihood import LogLikelihood
from invcap.prompt_inversion.objective import Maximized, Objective, bound_terms
from invcap.prompt_inversion.optimizer import maximize, measure
from invcap.prompt_inversion.output import PromptInversionOutput, history_of
from invcap.prompt_inversion.parametrization import (
    OVER_TOKENS,
    ConditioningOf,
    Parametrization,
    parametrize,
)
from invcap.prompt_inversion.settings import InversionSettings, default_settings
from invcap.prompt_inversion.starts import LearnedStarts, Start, resolve_start
from invcap.prompt_inversion.state import State
from invcap.prompt_inversion.word_search import WordSearch
from invcap.prompt_inversion.words import Captioner, Contest, doublings

OnStep = Callable[["PromptInversionPipeline", int, dict[str, Any]], Any]
CANDIDATES = 16


class PromptInversionPipeline:
    """Scores and inverts prompts of a frozen text-to-image model.

    Args:
        model: the model; by default one of the networks in `components`.
        components: those of a `StableDiffusionPipeline`: vae, text_encoder, tokenizer, unet,
            scheduler.

    Source: "Image captioning with text-to-image models".
    """

    def __init__(self, model: FrozenTextToImage | None = None, **components: Any) -> None:
        self.model = stable_diffusion(**components) if model is None else model
        self._progress: dict[str, Any] = {}
        self._learned: dict[Path | None, LearnedStarts] = {}

    @classmethod
    def from_pretrained(
        cls, name: str | Path | None = None, **options: Any
    ) -> PromptInversionPipeline:
        """Loads a model from a folder or the hub; by default the embedded tiny-sd.

        Args:
            name: a folder or a hub name.
            options: passed to `load_model`, such as `dtype` or `compute_dtype`.

        Raises:
            ValueError: the model cannot be loaded, or its family is not supported.
        """
        return cls(load_model(name, **options))

    @property
    def text_to_image(self) -> Any:
        """The diffusers pipeline with the same networks."""
        return self.model.pipeline

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images that the model was trained on, in pixels."""
        return self.model.size

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.device

    def to(self, *where: Any) -> PromptInversionPipeline:
        """Moves the model to a device or casts it to a dtype, in place."""
        self.model.to(*where)
        self._learned.clear()
        return self

    def enable_offload(self, device: torch.device | str) -> PromptInversionPipeline:
        """Keeps networks on the CPU and moves one at a time to a device: slower, but less memory.

        An inversion encodes images and prompts once; after that only the denoiser is on the device.
        If token vectors or tokens are optimized, each step needs the text encoders too.
        """
        self.model.enable_offload(device)
        self._learned.clear()
        return self

    def enable_group_offload(self, device: torch.device | str) -> PromptInversionPipeline:
        """Keeps all weights on the CPU and moves one layer at a time to a device."""
        self.model.enable_group_offload(device)
        self._learned.clear()
        return self

    def set_progress_bar_config(self, **options: Any) -> None:
        """Sets options of `tqdm` for the progress bars, such as `disable=True`."""
        self._progress |= options

    def learned_starts(self, folder: str | Path | None = None) -> LearnedStarts:
        """The starts that were learned for the model; each folder is read once."""
        key = None if folder is None else Path(folder)
        if key not in self._learned:
            self._learned[key] = LearnedStarts(self.model, key)
        return self._learned[key]

    def log_likelihood(
        self,
        image: ImageSource,
        prompts: Sequence[str],
        draws: int = 256,
        generator: torch.Generator | None = None,
        size: tuple[int, int] | None = None,
    ) -> LogLikelihood:
        """Bounds log p(latent of the image | prompt), for each prompt on the same noise samples.

        Costs `draws` UNet evaluations per prompt; standard errors fall as 1 / sqrt(draws).

        Args:
            image: the image.
            prompts: at least one sentence.
            draws: number of noise samples: pairs of a diffusion step and noise.
            generator: draws the noise samples; by default one seeded with 0.
            size: (height, width) that the image is scaled to; by default the model's own.

        Raises:
            ValueError: an argument cannot be used.

        Source: "Image captioning with text-to-image models", section 3 and Table 1.
        """
        model = self.model
        check_draws(draws)
        model.check_prompts(prompts)
        latents = model.encode_images(image, size)
        generator = generator or torch.Generator().manual_seed(0)
        samples = draw_samples(model.schedule, draws, tuple(latents.shape[1:]), generator)
        samples = samples.to(model.device).expand(1)
        terms = []
        with tqdm(total=len(prompts), **self._progress) as bar:
            for part in few(prompts):
                conditioning = model.encode_prompts(part)
                for index in range(len(part)):
                    one = conditioning[index : index + 1]
                    terms.append(bound_terms(model, latents, one, samples).cpu())
                    bar.update()
        return LogLikelihood(list(prompts), torch.cat(terms))

    def likeliest(
        self,
        image: ImageSource,
        prompts: Sequence[str],
        finalists: int = 10,
        draws: int = 256,
        generator: torch.Generator | None = None,
        size: tuple[int, int] | None = None,
    ) -> LogLikelihood:
        """Finds the likeliest of very many prompts, best first, by successive halving.

        All prompts are measured on 8 noise samples or a few more, the likelier half on twice as
        many, and so on; the finalists on all, as in `log_likelihood`. Costs about 8 UNet
        evaluations per prompt and doubling of the samples.

        Args:
            image: the image.
            prompts: at least one sentence.
            finalists: the largest number of prompts to return.
            draws, generator, size: see `log_likelihood`.

        Raises:
            ValueError: an argument cannot be used.
        """
        check_draws(draws)
        if finalists < 1:
            raise ValueError(f"finalists must be at least 1, got {finalists}")
        self.model.check_prompts(prompts)
        (latents,) = self.model.encode_images(image, size)
        generator = generator or torch.Generator().manual_seed(0)
        contest = Contest(self.model, latents, draws, generator, doublings(draws))
        best = contest.halve(list(dict.fromkeys(prompts)), finalists)
        return contest.log_likelihood(best[:finalists])

    def invert(
        self,
        images: ImageSource | Sequence[ImageSource],
        start: Start = "a room",
        settings: InversionSettings | None = None,
        over: Parametrization = "hidden_states",
        seeds: int | Sequence[int] = 0,
        size: tuple[int, int] | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 25,
        captioner: Captioner | None = None,
        starts: str | Path | None = None,
        words: bool | WordSearch = False,
        together: bool = False,
        negative: bool = False,
        checkpoint: str | Path | None = None,
        callback_on_step_end: OnStep | None = None,
    ) -> PromptInversionOutput:
        """Finds the prompt embedding that makes each image most likely.

        Each step costs `draws` UNet evaluations with gradient per image, and each measurement
        `held_out` without.

        Args:
            images: P images.
            start: the initial prompt: a sentence, or one for each image; hidden states (77, d)
                or (P, 77, d); "caption", the best caption of the captioner; "amortised" or
                "meta", which `invcap train-starts` learns.
            settings: how the bound is maximized; by default `few_steps` from "caption" and
                "amortised", which start close to the optimum, else `InversionSettings()`.
            over: what is optimized: the prompt's hidden states (77, d); its whole conditioning,
                with the pooled embedding; the token vectors of the start, which the text encoder
                then reads; or the tokens themselves.
            seeds: one for each image's noise samples, which depend on nothing else; a number s
                stands for s, s + 1, ...
            size: (height, width) that images are scaled to; by default the model's own.
            guidance_scale, num_inference_steps: how images are generated from the result.
            captioner: gives captions, for the start "caption" and for words.
            starts: folder of learned starts, and of the axes that hidden states are optimized
                along; by default the model's own, `starts` in its folder.
            words: also find the likeliest prompt in words. Candidates are the captions, the start
                if it is a sentence, and the words nearest to optimized token vectors; a
                `WordSearch` adds a bank of sentences or a proposer.
            together: find one prompt for all images, from one start, by maximizing the mean of
                their bounds. The output then has one row.
            negative: find the prompt that makes images least likely, to use as a negative prompt.
                The output's bounds are those of the likelihood, which falls.
            checkpoint: file that the state is written to; if it exists, the inversion resumes
                from it and gives the same result as without interruption.
            callback_on_step_end: called after each step with (pipeline, steps done, {"vectors":
                what is optimized, (P, N, d), "held_out": the best bounds, (P,), "so_far": a
                function that returns the current output, without images}). If it returns False,
                the inversion stops and returns the best so far; its checkpoint can be resumed.

        Raises:
            ValueError: an argument cannot be used, or the checkpoint belongs to another inversion.
            FloatingPointError: the bound of the start is not finite.

        Source: "Image captioning with text-to-image models", sections 3 and 4.
        """
        model, learned = self.model, self.learned_starts(starts)
        settings = settings or default_settings(start, model.schedule)
        has_captioner, size = captioner is not None, size or model.size
        asked, search = bool(words), words if isinstance(words, WordSearch) else WordSearch()
        check_joint(start, asked, together, negative)
        check_inputs(
            learned,
            settings,
            start,
            over,
            size,
            guidance_scale,
            has_captioner,
            asked,
            search.has_sentences,
        )
        images = as_images(images)
        seeds = resolve_seeds(seeds, len(images))
        latents = model.encode_images(images, size)
        captions: list[list[str]] = []
        if captioner is not None and (words or start == "caption"):
            composed = captioner.compose(images, CANDIDATES)
            captions = [[caption.text for caption in captions] for captions in composed]
        begun = resolve_start(start, latents, [best[0] for best in captions], learned)
        vectors, conditioning_of = parametrize(model, begun, over, learned.axes)
        objective = Objective(model, latents, conditioning_of, seeds, settings)
        identity: dict[str, Any] = {}
        if checkpoint is not None:
            begins = begun if over in OVER_TOKENS else start
            identity = identity_of(learned, settings, seeds, images, size, begins, over)
            identity |= {"together": True} if together else {}
            identity |= {"negative": True} if negative else {}
        climbed: Maximized = objective
        if together:
            climbed, vectors = Together(objective), vectors[:1]
        if negative:
            climbed = Negative(climbed)
        model.release()

        def output_of(state: State) -> PromptInversionOutput:
            output = self._output(state, conditioning_of, over)
            return with_bounds_negated(output) if negative else output

        state = self._maximize(
            climbed, vectors, settings, checkpoint, identity, output_of, callback_on_step_end
        )
        output = output_of(state)
        output.images = model.generate(
            Conditioning(output.conditioning),
            seeds[: len(state.best)],
            size,
            guidance_scale,
            num_inference_steps,
        )
        if words:
            search.add_prompts(output, model, objective, images, begun, captions, seeds)
        return output

    def generate(
        self, prompt_embeds: Tensor | Conditioning, seeds: Sequence[int], **options: Any
    ) -> list[Image.Image]:
        """Generates an image from each of P embeddings, (P, 77, d), each with its own seed.

        Args:
            prompt_embeds: hidden states, or conditioning.
            seeds: one for each embedding.
            options: passed to `FrozenTextToImage.generate`.
        """
        if isinstance(prompt_embeds, Tensor):
            prompt_embeds = self.model.conditioning_of(prompt_embeds)
        return self.model.generate(prompt_embeds, seeds, **options)

    def _maximize(
        self,
        objective: Maximized,
        vectors: Tensor,
        settings: InversionSettings,
        checkpoint: str | Path | None,
        identity: dict[str, Any],
        output_of: Callable[[State], PromptInversionOutput],
        callback: OnStep | None,
    ) -> State:
        path = Path(checkpoint) if checkpoint is not None else None
        state = State.start(vectors)
        if path is not None and path.exists():
            state = State.load(path, identity, vectors.device)
        with tqdm(total=settings.steps, initial=state.step, **self._progress) as bar:

            def on_step(state: State) -> Any:
                bar.update()
                if state.step == state.evaluated[-1]:
                    bar.set_postfix(bound=f"{state.best_bound.mean():.4f}", refresh=False)
                if path is not None and state.step % settings.checkpoint_every == 0:
                    state.save(path, identity)
                if callback is None:
                    return None
                so_far = partial(output_of, state)
                now = {"vectors": state.vectors, "held_out": state.best_bound, "so_far": so_far}
                return callback(self, state.step, now)

            maximize(objective, state, settings, on_step)
        if path is not None:
            state.save(path, identity)
        if state.evaluated[-1] < state.step:
            measure(objective, state, settings)
        return state

    @torch.no_grad()
    def _output(
        self, state: State, conditioning_of: ConditioningOf, over: Parametrization
    ) -> PromptInversionOutput:
        every = torch.arange(len(state.best), device=state.best.device)
        found = conditioning_of(state.best, every).to("cpu")
        return PromptInversionOutput(
            prompt_embeds=found.tensors[self.model.optimized],
            conditioning=dict(found.tensors),
            token_vectors=state.best.cpu() if over in OVER_TOKENS else None,
            log_likelihood=state.best_bound.cpu(),
            standard_error=state.best_error.cpu(),
            steps=state.best_step.tolist(),
            unet_evaluations=state.evaluations.tolist(),
            histories=[history_of(state, row) for row in every.tolist()],
            snapshots={
                step: conditioning_of(vectors, every).to("cpu")
                for step, vectors in state.snapshots.items()
            },
            images=[],
        )
