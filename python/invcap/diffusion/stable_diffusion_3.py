"""Stable Diffusion 3 and 3.5: flow matching by a transformer that reads two CLIPs and a T5."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from invcap.diffusion.clip_prompts import ClipPrompts
from invcap.diffusion.conditioning import Conditioning, with_pooled
from invcap.diffusion.flow_matching import FlowMatching
from invcap.diffusion.repeated_key import RepeatedLastKey
from invcap.diffusion.text import check_length

T5_TOKENS = 256


class StableDiffusion3(FlowMatching, ClipPrompts):
    """`StableDiffusion3Pipeline`: hidden states of both CLIPs, then of T5; pooled ones of CLIPs.

    Conditioning: `prompt_embeds` (N, 77 + 256, 4096), `pooled_prompt_embeds` (N, 2048). T5 may be
    left out (`text_encoder_3=None, tokenizer_3=None`): its states are zeros then, which inversions
    leave as they are. They are zeros for token vectors, too, which only the CLIPs read; the model
    was trained without each of its encoders.
    With T5, a prompt may have 256 of its tokens, of which the CLIPs read the first 77 of theirs.

    Source: Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis"
    (2024), sections 2 and 5.3.3.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusion3Pipeline",)
    single_files: ClassVar[tuple[str, ...]] = ("sd3", "sd35_medium", "sd35_large")
    pooled: ClassVar[str | None] = "pooled_prompt_embeds"
    clips: ClassVar[dict[str, str]] = {"": "clip_l", "_2": "clip_g"}

    @property
    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        config, length = self.denoiser.config, self.tokenizer.model_max_length
        return {
            "prompt_embeds": (length + T5_TOKENS, config.joint_attention_dim),
            "pooled_prompt_embeds": (config.pooled_projection_dim,),
        }

    @property
    def optimized_tokens(self) -> int:
        return self.tokenizer.model_max_length if self._without_t5 else super().optimized_tokens

    def check_prompt(self, prompt: str) -> None:
        if self._without_t5:
            self.check_tokens(prompt)
        else:
            check_length(prompt, self.pipeline.tokenizer_3, T5_TOKENS)

    def check_tokens(self, prompt: str) -> None:
        super().check_prompt(prompt)

    def encode_few(self, prompts: Sequence[str]) -> Conditioning:
        hidden, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts),
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=T5_TOKENS,
        )
        return with_pooled(hidden, pooled)

    def encode_tokens(self, vectors: Tensor) -> Conditioning:
        found = self.run_clips(vectors)
        hidden = torch.cat([output.hidden_states[-2] for output in found], -1)
        _, width = self.conditioning_shapes["prompt_embeds"]
        hidden = pad(hidden, (0, width - hidden.shape[-1], 0, T5_TOKENS))
        return with_pooled(hidden, torch.cat([output.text_embeds for output in found], -1))

    def predict_velocity(self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        hidden, alike = conditioning.tensors["prompt_embeds"], 0
        clips, t5 = hidden.split([self.tokenizer.model_max_length, T5_TOKENS], 1)
        # The mean of T5's zeros stands for all, with their gradients; a layer that is recomputed in
        # the backward pass would not see how often it counts.
        again = torch.is_grad_enabled() and self.denoiser.is_gradient_checkpointing
        if self._without_t5 and not again and not t5.any():
            hidden, alike = torch.cat([clips, t5.mean(1, keepdim=True)], 1), T5_TOKENS
        patches = noisy[0, 0].numel() // self.denoiser.config.patch_size**2
        with RepeatedLastKey(alike, patches + hidden.shape[1]) if alike else nullcontext():
            return self.denoiser(
                hidden_states=noisy,
                timestep=sigma * self.pipeline.scheduler.config.num_train_timesteps,
                encoder_hidden_states=hidden,
                pooled_projections=conditioning.tensors["pooled_prompt_embeds"],
            ).sample

    @property
    def _without_t5(self) -> bool:
        return self.pipeline.text_encoder_3 is None
