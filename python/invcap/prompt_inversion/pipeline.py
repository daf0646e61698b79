"""Stable Diffusion turned around: how likely a prompt made a picture, and which prompt most."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from invcap.captioning import InvertibleCaptioner
from invcap.data import fit_picture
from invcap.data.pictures import open_picture, to_rgb
from invcap.diffusion.noise_samples import NoiseSamples, draw_samples, standard_error
from invcap.diffusion.schedule import NoiseSchedule
from invcap.encoders.autoencoder import to_unit_range
from invcap.hashing import digest, signature
from invcap.prompt_inversion.axes import load_axes
from invcap.prompt_inversion.inversion import (
    Inversion,
    InversionSettings,
    PromptInversionOutput,
    few_steps,
    history_of,
)
from invcap.prompt_inversion.likelihood import LogLikelihood
from invcap.prompt_inversion.parametrization import HiddenOf, Over, parametrise
from invcap.prompt_inversion.starts import NEAR, Start, start_of, starts_folder
from invcap.prompt_inversion.state import State
from invcap.prompt_inversion.words import rank, read_tokens
from invcap_ext import weighted_squared_error

Picture = Image.Image | str | Path
OnStep = Callable[["PromptInversionPipeline", int, dict[str, Tensor]], Any]
BATCH = 32
CANDIDATES = 16


class PromptInversionPipeline(DiffusionPipeline):
    """Any Stable Diffusion 1.x or 2.x, with its networks frozen.

    Pictures become latents by the mean of the autoencoder's posterior. Costs are counted in UNet
    evaluations: one is one latent at one step.

    Args:
        vae, text_encoder, tokenizer, unet, scheduler: as of `StableDiffusionPipeline`; the
            scheduler predicts noise ("epsilon") or velocity ("v_prediction").

    Source: "Image captioning with text-to-image models".
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: Any,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler
        )
        for network in (vae, text_encoder, unet):
            network.eval().requires_grad_(False)
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.schedule = NoiseSchedule.of(scheduler)
        self.unet_batch = BATCH

    @classmethod
    def from_pretrained(
        cls, name: str | Path | None = None, **options: Any
    ) -> PromptInversionPipeline:
        """Loads a Stable Diffusion folder or hub name; by default the embedded tiny-sd.

        Args:
            options: as of `DiffusionPipeline.from_pretrained`, such as `dtype`.

        Raises:
            ValueError: it is neither a folder nor a model that loads, or not a Stable Diffusion.
        """
        name = tiny_sd() if name is None else name
        index = Path(name) / "model_index.json"
        if Path(name).is_dir() and not index.is_file():
            raise ValueError(f"{name}: expected a diffusers pipeline, but has no {index.name}")
        try:
            return super().from_pretrained(str(name), use_safetensors=True, **options)
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: not a Stable Diffusion that loads: {error}") from error

    @cached_property
    def text_to_image(self) -> StableDiffusionPipeline:
        """The same networks the usual way round."""
        pipeline = StableDiffusionPipeline(
            **self.components,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures that the model was trained on, pixels."""
        side = self.unet.config.sample_size
        height, width = side if isinstance(side, Sequence) else (side, side)
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    def enable_gradient_checkpointing(self) -> None:
        """Computes the UNet's activations twice instead of storing them: less memory, more time."""
        self.unet.enable_gradient_checkpointing()

    @torch.no_grad()
    def encode_images(
        self, images: Picture | Sequence[Picture], size: tuple[int, int] | None = None
    ) -> Tensor:
        """Maps pictures to scaled latents (P, C, h, w) float32.

        Args:
            images: pictures or paths, of any size: they are scaled and centre-cropped.
            size: (height, width) in pixels; by default the model's own.

        Raises:
            ValueError: there is no picture, a file is not one, or the size does not fit the
                autoencoder.
        """
        images = [images] if isinstance(images, Image.Image | str | Path) else list(images)
        if not images:
            raise ValueError("images must hold at least one picture, got none")
        size = size or self.size
        if min(size) < 1 or any(side % self.vae_scale_factor for side in size):
            raise ValueError(
                f"size must be multiples of {self.vae_scale_factor} pixels, got "
                f"{size[0]} x {size[1]}"
            )
        latents = []
        for image in images:
            pixels = to_unit_range(fit_picture(_open(image), size)[None].copy())
            posterior = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist
            latents.append(posterior.mode().float().cpu() * self.vae.config.scaling_factor)
        return torch.cat(latents)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Maps prompts to hidden states (N, 77, d) float32.

        Raises:
            ValueError: there is no prompt, or one is empty or too long.
        """
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts must be a list of at least one sentence, got {prompts!r}")
        for prompt in prompts:
            self.check_prompt(prompt)
        hidden, _ = self.text_to_image.encode_prompt(
            list(prompts), self._execution_device, 1, do_classifier_free_guidance=False
        )
        return hidden.float().cpu()

    def check_prompt(self, prompt: str) -> None:
        """Raises ValueError unless a prompt has words, and not too many."""
        if not prompt.strip():
            raise ValueError(f"a prompt must have words, got {prompt!r}")
        count = len(self.tokenizer(prompt).input_ids)
        if count > self.tokenizer.model_max_length:
            raise ValueError(
                f"a prompt has at most {self.tokenizer.model_max_length} tokens with start and "
                f"end, got {count}: {prompt!r}"
            )

    def squared_errors(
        self, noisy: Tensor, noise: Tensor, steps: Tensor, hidden: Tensor, weight: Tensor
    ) -> Tensor:
        """weight ||e_theta(x_t, t, y) - e||^2 for N noisy latents, one UNet evaluation each.

        Args:
            noisy, noise: (N, C, h, w) float32.
            steps: (N,).
            hidden: (N, 77, d), the prompts' hidden states y, differentiable.
            weight: (N,) float32.

        Returns:
            (N,) float32.
        """
        dtype, device = self.unet.dtype, self.unet.device
        noisy, noise = noisy.to(device), noise.to(device)
        predicted = self.unet(noisy.to(dtype), steps.to(device), hidden.to(device, dtype)).sample
        found = self.schedule.noise_of(predicted.to(noisy.dtype), noisy, steps)
        return weighted_squared_error(found, noise.to(found), weight.to(found)).to(weight)

    @torch.no_grad()
    def bound_terms(self, latents: Tensor, hidden: Tensor, bank: NoiseSamples) -> Tensor:
        """Terms (M,) float64 whose mean is the bound, nats per latent number.

        Args:
            latents: (C, h, w).
            hidden: (77, d).
        """
        weight = (self.schedule.weights()[bank.steps] * bank.importance / latents.numel()).float()
        errors = []
        for part in torch.arange(len(bank)).split(self.unet_batch):
            steps, noise = bank.steps[part], bank.noise[part]
            noisy = self.schedule.noisy(latents[None], noise, steps)
            states = hidden[None].expand(len(part), -1, -1)
            errors.append(self.squared_errors(noisy, noise, steps, states, weight[part]))
        return self.schedule.constant(latents[None]) - torch.cat(errors).double()

    def log_likelihood(
        self,
        image: Picture,
        prompts: Sequence[str],
        draws: int = 256,
        generator: torch.Generator | None = None,
        size: tuple[int, int] | None = None,
    ) -> LogLikelihood:
        """Bounds log p(latent of the picture | prompt), for each prompt on the same bank.

        Costs `draws` UNet evaluations a prompt; standard errors fall as their root.

        Args:
            prompts: at least one sentence.
            draws: pairs of step and noise.
            generator: of the bank; by default one seeded with 0.
            size: (height, width) that the picture is scaled to; by default the model's own.

        Source: "Image captioning with text-to-image models", section 3 and Table 1.
        """
        latents = self.encode_images(image, size)[0]
        hidden = self.encode_prompts(prompts)
        generator = generator or torch.Generator().manual_seed(0)
        bank = draw_samples(self.schedule, draws, tuple(latents.shape), generator)
        with self.progress_bar(total=len(prompts)) as bar:
            terms = []
            for states in hidden:
                terms.append(self.bound_terms(latents, states, bank))
                bar.update()
        return LogLikelihood(list(prompts), torch.stack(terms))

    def invert(
        self,
        images: Picture | Sequence[Picture],
        start: Start = "a room",
        settings: InversionSettings | None = None,
        over: Over = "hidden_states",
        seeds: int | Sequence[int] = 0,
        size: tuple[int, int] | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 25,
        captioner: InvertibleCaptioner | None = None,
        starts: str | Path | None = None,
        words: bool = False,
        checkpoint: str | Path | None = None,
        callback_on_step_end: OnStep | None = None,
    ) -> PromptInversionOutput:
        """Finds the prompt embedding that makes each picture most likely.

        Costs `draws` UNet evaluations, with their gradient, a step and picture, and `held_out`
        without at each measurement.

        Args:
            start: what to begin with: a sentence, or one for each picture; hidden states (77, d)
                or (P, 77, d); "caption", what the captioner says; "amortised" or "meta", which
                `python/train_starts.py` learned.
            settings: how to climb; by default `few_steps` from "caption" and "amortised", which
                are near, and `InversionSettings()` from anything else.
            over: what is optimised: the prompt's hidden states (77, d); the vectors of the tokens
                of the start, which the text encoder then reads; or the tokens themselves.
            seeds: of each picture's banks; a number stands for itself and those after it. One
                picture's result depends on its own seed alone.
            size: (height, width) that pictures are scaled to; by default the model's own.
            guidance_scale, num_inference_steps: of the generated pictures.
            captioner: says what is in a picture, for the start "caption" and for words.
            starts: folder of learned starts, and of the axes that hidden states are optimised
                along; by default the model's own, `starts` in its folder.
            words: also find the likeliest prompt in words, among what the captioner says, the
                start if it is a sentence, and the tokens nearest to what was optimised.
            checkpoint: file that the state is written to; if there is one already, the inversion
                goes on from it and ends as if it had never stopped.
            callback_on_step_end: called with (pipeline, steps done, {"vectors": (P, N, d), what
                is optimised, "held_out": (P,) best bounds}) after each step.

        Raises:
            ValueError: an argument cannot be used, or the checkpoint belongs to another inversion.
            FloatingPointError: the bound of the start is not finite.

        Source: "Image captioning with text-to-image models", sections 3 and 4.
        """
        if settings is None:
            near = isinstance(start, str) and start in NEAR
            settings = few_steps(self.schedule) if near else InversionSettings()
        latents = self.encode_images(images, size)
        seeds = [seeds + i for i in range(len(latents))] if isinstance(seeds, int) else list(seeds)
        if len(seeds) != len(latents):
            raise ValueError(
                f"seeds must be one, or one for each of {len(latents)} pictures, got {len(seeds)}"
            )
        said = None
        if captioner is not None and (words or start == "caption"):
            said = [[c.text for c in found] for found in captioner.compose(images, CANDIDATES)]
        begun = start_of(self, start, latents, said and [best[0] for best in said], starts)
        if words and said is None and isinstance(begun, Tensor):
            raise ValueError("words need a captioner or a start that is a sentence, got neither")
        axes = load_axes(starts_folder(self, starts), self)
        vectors, hidden_of = parametrise(self, begun, over, axes)
        inversion = Inversion(self, latents, vectors, seeds, hidden_of, settings)
        identity = {
            "settings": json.dumps(asdict(settings)),
            "seeds": str(seeds),
            "pictures": digest(latents),
            "start": digest(vectors),
            "over": over,
            "model": json.dumps(signature(self.unet)),
        }
        path = Path(checkpoint) if checkpoint is not None else None
        state = State.start(vectors)
        if path is not None and path.exists():
            state = State.load(path, identity)
        with self.progress_bar(total=settings.steps) as bar:
            bar.update(state.step)

            def on_step(state: State) -> None:
                bar.update()
                bar.set_postfix(bound=f"{state.best_bound.mean():.4f}", refresh=False)
                if path is not None and state.step % settings.checkpoint_every == 0:
                    state.save(path, identity)
                if callback_on_step_end is not None:
                    now = {"vectors": state.vectors, "held_out": state.best_bound}
                    callback_on_step_end(self, state.step, now)

            inversion.run(state, on_step)
        if path is not None:
            state.save(path, identity)
        output = self._output(
            state, hidden_of, over, seeds, size, guidance_scale, num_inference_steps
        )
        if words:
            self._say(output, latents, begun, said, seeds, inversion.held_out)
        return output

    @torch.no_grad()
    def generate(
        self,
        prompt_embeds: Tensor,
        seeds: Sequence[int],
        size: tuple[int, int] | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 25,
    ) -> list[Image.Image]:
        """Draws a picture from each embedding, (P, 77, d), each with its own seed."""
        height, width = size or self.size
        unet = self.unet
        return [
            self.text_to_image(
                prompt_embeds=states[None].to(unet.device, unet.dtype),
                height=height,
                width=width,
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                generator=torch.Generator().manual_seed(seed),
            ).images[0]
            for states, seed in zip(prompt_embeds, seeds, strict=True)
        ]

    @torch.no_grad()
    def _output(
        self,
        state: State,
        hidden_of: HiddenOf,
        over: Over,
        seeds: Sequence[int],
        size: tuple[int, int] | None,
        guidance_scale: float,
        num_inference_steps: int,
    ) -> PromptInversionOutput:
        every = torch.arange(len(state.best))
        embeds = hidden_of(state.best, every)
        return PromptInversionOutput(
            prompt_embeds=embeds,
            token_vectors=state.best if over != "hidden_states" else None,
            log_likelihood=state.best_bound,
            standard_error=state.best_error,
            steps=state.best_step.tolist(),
            unet_evaluations=state.evaluations.tolist(),
            histories=[history_of(state, row) for row in every.tolist()],
            snapshots={step: hidden_of(v, every) for step, v in state.snapshots.items()},
            images=self.generate(embeds, seeds, size, guidance_scale, num_inference_steps),
        )

    @torch.no_grad()
    def _say(
        self,
        output: PromptInversionOutput,
        latents: Tensor,
        begun: list[str] | Tensor,
        said: list[list[str]] | None,
        seeds: Sequence[int],
        held_out: Sequence[NoiseSamples],
    ) -> None:
        """Adds the likeliest prompts in words to an output."""
        output.prompts, terms = [], []
        for index, picture in enumerate(latents):
            candidates = list(said[index]) if said is not None else []
            if not isinstance(begun, Tensor):
                candidates.append(begun[index])
            if output.token_vectors is not None:
                candidates += read_tokens(self, output.token_vectors[index : index + 1])
            ranking = rank(self, picture, list(dict.fromkeys(candidates)), seed=seeds[index])
            output.prompts.append(ranking.prompts[0])
            hidden = self.encode_prompts(ranking.prompts[:1])[0]
            terms.append(self.bound_terms(picture, hidden, held_out[index]))
            output.unet_evaluations[index] += ranking.evaluations + len(held_out[index])
        output.prompt_log_likelihood = torch.stack(terms).mean(1)
        output.prompt_standard_error = standard_error(torch.stack(terms))


def tiny_sd() -> Path:
    """The embedded model's folder, in an installed package or in the repository.

    Raises:
        ValueError: it is not there.
    """
    here = Path(__file__)
    folders = [root / "models" / "tiny-sd" for root in (here.parents[1], here.parents[3])]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise ValueError(
        f"{folders[-1]}: no such folder; train it with python/train_tiny_sd.py, or name a model"
    )


def _open(image: Picture) -> Image.Image:
    return to_rgb(image) if isinstance(image, Image.Image) else open_picture(Path(image))
