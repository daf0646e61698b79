"""Stable Diffusion 1.x and 2.x: a U-Net that reads the hidden states of one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage

WORD_END = "</w>"
ONE_LETTER_WORDS = ("a", "i")


class StableDiffusion(FrozenTextToImage):
    """`StableDiffusionPipeline`: its conditioning is `prompt_embeds`, (N, 77, d).

    The scheduler predicts noise ("epsilon") or velocity ("v_prediction"). Images become latents by
    the mean of the autoencoder's posterior.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    load_options: ClassVar[dict[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }

    @property
    def denoiser(self) -> Any:
        return self.pipeline.unet

    @property
    def size(self) -> tuple[int, int]:
        side = self.pipeline.unet.config.sample_size
        height, width = side if isinstance(side, Sequence) else (side, side)
        return height * self.pixels_per_latent, width * self.pixels_per_latent

    @property
    def pixels_per_latent(self) -> int:
        return self.pipeline.vae_scale_factor

    @property
    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        width = self.pipeline.unet.config.cross_attention_dim
        return {"prompt_embeds": (self.tokenizer.model_max_length, width)}

    @property
    def tokenizer(self) -> CLIPTokenizer:
        """Splits prompts into tokens."""
        return self.pipeline.tokenizer

    @property
    def token_table(self) -> Tensor:
        return self.pipeline.text_encoder.get_input_embeddings().weight.float()

    @cached_property
    def word_tokens(self) -> Sequence[int]:
        found = []
        for token, number in self.tokenizer.get_vocab().items():
            word = token.removesuffix(WORD_END)
            whole = word != token and word.isascii() and word.isalpha()
            if whole and (len(word) > 1 or word in ONE_LETTER_WORDS):
                found.append(number)
        return sorted(found)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        vae = self.pipeline.vae
        posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        return posterior.mode().float() * vae.config.scaling_factor

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts must be a list of at least one sentence, got {prompts!r}")
        for prompt in prompts:
            self.check_prompt(prompt)
        hidden, _ = self.pipeline.encode_prompt(
            list(prompts), self.device, 1, do_classifier_free_guidance=False
        )
        return Conditioning({"prompt_embeds": hidden.float()})

    def check_prompt(self, prompt: str) -> None:
        if not prompt.strip():
            raise ValueError(f"a prompt must have words, got {prompt!r}")
        count, most = len(self.tokenizer(prompt).input_ids), self.tokenizer.model_max_length
        if count > most:
            raise ValueError(
                f"a prompt has at most {most} tokens with start and end, got {count}: {prompt!r}"
            )

    def predict_noise(self, noisy: Tensor, steps: Tensor, conditioning: Conditioning) -> Tensor:
        dtype, hidden = self.dtype, conditioning.tensors["prompt_embeds"]
        predicted = self.pipeline.unet(noisy.to(dtype), steps, hidden.to(dtype)).sample
        return self.schedule.to(noisy.device).noise_of(predicted.to(noisy.dtype), noisy, steps)

    def tokenize(self, prompt: str) -> list[int]:
        return self.tokenizer(prompt, add_special_tokens=False).input_ids

    def read_tokens(self, ids: Tensor) -> list[str]:
        return [text.strip() for text in self.tokenizer.batch_decode(ids)]

    def encode_tokens(self, vectors: Tensor) -> Conditioning:
        tokenizer, count = self.tokenizer, vectors.shape[1]
        shape = (len(vectors), tokenizer.model_max_length)
        ids = torch.full(shape, tokenizer.pad_token_id, device=vectors.device)
        ids[:, 0], ids[:, 1 + count] = tokenizer.bos_token_id, tokenizer.eos_token_id
        text_encoder = self.pipeline.text_encoder
        with _replaced_embeddings(text_encoder, slice(1, 1 + count), vectors):
            return Conditioning({"prompt_embeds": text_encoder(ids)[0].float()})


@contextmanager
def _replaced_embeddings(text_encoder: Any, positions: slice, vectors: Tensor) -> Iterator[None]:
    def replace(module: nn.Module, arguments: Any, embedded: Tensor) -> Tensor:
        changed = embedded.clone()
        changed[:, positions] = vectors.to(embedded)
        return changed

    handle = text_encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
