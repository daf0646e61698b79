"""Stable Diffusion 1.x and 2.x: a U-Net that reads the hidden states of one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from invcap.diffusion.clip_prompts import ClipPrompts
from invcap.diffusion.conditioning import Conditioning


class StableDiffusion(ClipPrompts):
    """`StableDiffusionPipeline`: its conditioning is `prompt_embeds`, (N, 77, d).

    The scheduler predicts noise ("epsilon") or velocity ("v_prediction"). Images become latents by
    the mean of the autoencoder's posterior.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    single_files: ClassVar[tuple[str, ...]] = ("v1", "v2")
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
    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        width = self.pipeline.unet.config.cross_attention_dim
        return {"prompt_embeds": (self.tokenizer.model_max_length, width)}

    def encode_few(self, prompts: Sequence[str]) -> Conditioning:
        hidden, _ = self.pipeline.encode_prompt(
            list(prompts), self.device, 1, do_classifier_free_guidance=False
        )
        return Conditioning({"prompt_embeds": hidden.float()})

    def encode_tokens(self, vectors: Tensor) -> Conditioning:
        (found,) = self.run_clips(vectors)
        return Conditioning({"prompt_embeds": found[0].float()})

    def predict_noise(self, noisy: Tensor, steps: Tensor, conditioning: Conditioning) -> Tensor:
        dtype, hidden = self.dtype, conditioning.tensors["prompt_embeds"]
        predicted = self.pipeline.unet(noisy.to(dtype), steps, hidden.to(dtype)).sample
        return self.schedule.to(noisy.device).noise_of(predicted.to(noisy.dtype), noisy, steps)
