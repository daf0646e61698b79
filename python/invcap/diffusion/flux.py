"""FLUX.1: flow matching by a transformer on packed latents, which reads a T5 and a CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning, with_pooled
from invcap.diffusion.flow_matching import FlowMatching
from invcap.diffusion.text import check_length, embed_around

MOST_TOKENS = 512


class Flux(FlowMatching):
    """`FluxPipeline`: hidden states of T5, and the pooled embedding of CLIP.

    Conditioning: `prompt_embeds` (N, 512, 4096), `pooled_prompt_embeds` (N, 768). Token vectors
    are T5's; the pooled embedding is then that of a prompt which says nothing. CLIP reads the
    first 77 tokens of longer prompts, as in diffusers.

    Attributes:
        guidance: what a guidance-distilled model (FLUX.1-dev) is told. At 1 it imitates its
            teacher without guidance, which comes nearest to a likelihood.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    single_files: ClassVar[tuple[str, ...]] = ("flux-dev", "flux-schnell")
    pooled: ClassVar[str | None] = "pooled_prompt_embeds"
    word_marks: ClassVar[tuple[str, str]] = ("▁", "")
    guidance: float = 1.0

    @property
    def distilled(self) -> str | None:
        if self.denoiser.config.guidance_embeds:
            return "its guidance is an input"
        return super().distilled

    @property
    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.denoiser.config
        return {
            "prompt_embeds": (MOST_TOKENS, config.joint_attention_dim),
            "pooled_prompt_embeds": (config.pooled_projection_dim,),
        }

    @property
    def tokenizer(self) -> Any:
        return self.pipeline.tokenizer_2

    @property
    def token_parts(self) -> dict[str, int]:
        return {"t5xxl": self.pipeline.text_encoder_2.config.d_model}

    @property
    def token_table(self) -> Tensor:
        return self.pipeline.text_encoder_2.get_input_embeddings().weight.float().to(self.device)

    def check_prompt(self, prompt: str) -> None:
        check_length(prompt, self.tokenizer, MOST_TOKENS)

    def encode_few(self, prompts: Sequence[str]) -> Conditioning:
        hidden, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, max_sequence_length=MOST_TOKENS
        )
        return with_pooled(hidden, pooled)

    def encode_tokens(self, vectors: Tensor) -> Conditioning:
        tokenizer, encoder = self.tokenizer, self.pipeline.text_encoder_2
        after = torch.full((MOST_TOKENS - vectors.shape[1],), tokenizer.pad_token_id)
        after[0] = tokenizer.eos_token_id
        embedded = embed_around(encoder, after[:0], vectors, after)
        return self.conditioning_of(encoder(inputs_embeds=embedded)[0].float())

    def predict_velocity(self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        pipeline, transformer, tensors = self.pipeline, self.denoiser, conditioning.tensors
        count, _, height, width = noisy.shape
        guidance = torch.full_like(sigma, self.guidance)
        packed = transformer(
            hidden_states=pipeline._pack_latents(noisy, *noisy.shape),
            timestep=sigma,
            guidance=guidance if transformer.config.guidance_embeds else None,
            pooled_projections=tensors["pooled_prompt_embeds"],
            encoder_hidden_states=tensors["prompt_embeds"],
            txt_ids=noisy.new_zeros(tensors["prompt_embeds"].shape[1], 3),
            img_ids=pipeline._prepare_latent_image_ids(
                count, height // 2, width // 2, noisy.device, noisy.dtype
            ),
        ).sample
        unit = self.pixels_per_latent
        return pipeline._unpack_latents(packed, height * unit, width * unit, unit)
