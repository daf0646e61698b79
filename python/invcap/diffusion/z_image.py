"""Z-Image: flow matching by a transformer in one stream with the states of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.flow_matching import FlowMatching
from invcap.diffusion.text import check_length, embed_around

MOST_TOKENS = 512
SIDE = 1024
PLACE = "<prompt>"


class ZImage(FlowMatching):
    """`ZImagePipeline`: hidden states of Qwen3 (the last but one), for a chat with the prompt.

    Conditioning: `prompt_embeds`, (N, 512, 2560) here, zeros after a prompt's n tokens; in files
    and in the pipeline's call, those n alone. Token vectors are Qwen3's, between the words of its
    chat template.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("ZImagePipeline",)
    single_files: ClassVar[tuple[str, ...]] = ("z-image-turbo",)
    word_marks: ClassVar[tuple[str, str]] = ("Ġ", "")

    @property
    def size(self) -> tuple[int, int]:
        return SIDE, SIDE

    @property
    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (MOST_TOKENS, self.denoiser.config.cap_feat_dim)}

    @property
    def token_parts(self) -> dict[str, int]:
        return {"qwen3_4b": self.pipeline.text_encoder.config.hidden_size}

    @property
    def token_table(self) -> Tensor:
        return self.pipeline.text_encoder.get_input_embeddings().weight.float().to(self.device)

    def check_prompt(self, prompt: str) -> None:
        around = sum(len(ids) for ids in self._around)
        check_length(prompt, self.tokenizer, MOST_TOKENS - around)

    def encode_few(self, prompts: Sequence[str]) -> Conditioning:
        found, _ = self.pipeline.encode_prompt(
            list(prompts),
            self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=MOST_TOKENS,
        )
        return Conditioning({"prompt_embeds": torch.stack([_padded(states) for states in found])})

    def encode_tokens(self, vectors: Tensor) -> Conditioning:
        encoder, (before, after) = self.pipeline.text_encoder, map(torch.tensor, self._around)
        embedded = embed_around(encoder, before, vectors, after)
        states = encoder(inputs_embeds=embedded, output_hidden_states=True).hidden_states[-2]
        return Conditioning({"prompt_embeds": _padded(states)})

    def predict_velocity(self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        hidden = conditioning.tensors["prompt_embeds"]
        prompts = [states[: _length(states)] for states in hidden]
        back = self.denoiser([*noisy.unsqueeze(2)], 1 - sigma, prompts).sample
        return -torch.stack(back).squeeze(2)

    def trim(self, conditioning: Conditioning) -> Conditioning:
        hidden = conditioning.tensors["prompt_embeds"]
        return Conditioning({"prompt_embeds": hidden[:, : _length(hidden[0])]})

    def pad(self, conditioning: Conditioning) -> Conditioning:
        return conditioning.map(_padded)

    def call_arguments(self, conditioning: Conditioning, guidance_scale: float) -> dict[str, Any]:
        # The pipeline's scale is that of the difference: 0 is the prompt's own velocity.
        guided = guidance_scale > 1
        arguments = super().call_arguments(conditioning, guidance_scale - 1 if guided else 0.0)
        arguments["prompt_embeds"] = [*arguments["prompt_embeds"]]
        if guided:
            nothing, _ = self.pipeline.encode_prompt([""], self.device, False)
            arguments["negative_prompt_embeds"] = nothing
        return arguments

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The tokens of the chat template before and after a prompt's."""
        asked = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": PLACE}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        before, after = asked.split(PLACE)
        return self.tokenize(before), self.tokenize(after)


def _padded(states: Tensor) -> Tensor:
    """States (..., n, d) with zeros after them, (..., 512, d) float32."""
    return pad(states.float(), (0, 0, 0, MOST_TOKENS - states.shape[-2]))


def _length(states: Tensor) -> int:
    """How many of one prompt's states (n, d) are not padding."""
    return int(states.any(1).sum())
