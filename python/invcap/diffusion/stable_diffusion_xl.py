"""Stable Diffusion XL: a U-Net that reads two CLIP text encoders, and the size of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from invcap.diffusion.clip_prompts import ClipPrompts
from invcap.diffusion.conditioning import Conditioning, with_pooled


class StableDiffusionXL(ClipPrompts):
    """`StableDiffusionXLPipeline`: hidden states of two encoders, and the second's embedding.

    Conditioning: `prompt_embeds` (N, 77, 2048), `pooled_prompt_embeds` (N, 1280). Original and
    target size are those of the latents, and nothing is cropped, as in the pipeline's call.

    Source: Podell et al., "SDXL: improving latent diffusion models for high-resolution image
    synthesis" (2023), sections 2.1 and 2.2.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionXLPipeline",)
    single_files: ClassVar[tuple[str, ...]] = ("xl_base",)
    load_options: ClassVar[dict[str, Any]] = {"add_watermarker": False}
    pooled: ClassVar[str | None] = "pooled_prompt_embeds"
    clips: ClassVar[dict[str, str]] = {"": "clip_l", "_2": "clip_g"}

    @property
    def denoiser(self) -> Any:
        return self.pipeline.unet

    @property
    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            "prompt_embeds": (
                self.tokenizer.model_max_length,
                self.pipeline.unet.config.cross_attention_dim,
            ),
            "pooled_prompt_embeds": (self.pipeline.text_encoder_2.config.projection_dim,),
        }

    def encode_few(self, prompts: Sequence[str]) -> Conditioning:
        hidden, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, do_classifier_free_guidance=False
        )
        return with_pooled(hidden, pooled)

    def encode_tokens(self, vectors: Tensor) -> Conditioning:
        found = self.run_clips(vectors)
        hidden = torch.cat([output.hidden_states[-2] for output in found], -1)
        return with_pooled(hidden, found[-1].text_embeds)

    def predict_noise(self, noisy: Tensor, steps: Tensor, conditioning: Conditioning) -> Tensor:
        dtype, tensors = self.dtype, conditioning.tensors
        height, width = (side * self.pixels_per_latent for side in noisy.shape[2:])
        size = torch.tensor([height, width, 0, 0, height, width], device=noisy.device)
        predicted = self.pipeline.unet(
            noisy.to(dtype),
            steps,
            tensors["prompt_embeds"].to(dtype),
            added_cond_kwargs={
                "text_embeds": tensors["pooled_prompt_embeds"].to(dtype),
                "time_ids": size.to(dtype).expand(len(noisy), -1),
            },
        ).sample
        return self.schedule.to(noisy.device).noise_of(predicted.to(noisy.dtype), noisy, steps)
