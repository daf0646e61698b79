"""tiny-sd3: Stable Diffusion 3's networks, small, with random weights, and how they are trained."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from invcap.diffusion.repeated_key import RepeatedLastKey
from invcap.tiny_sd.autoencoder import LATENT_CHANNELS, LATENT_SIDE
from invcap.tiny_sd.text import text_config

TOKENS = 32  # a caption has 20 at most, and every token is computed in every layer
WIDTHS = (32, 64)  # of the two text encoders
HEAD, HEADS, LAYERS = 32, 3, 6
T5_TOKENS = 256  # zeros that diffusers gives a model without T5


def new_text_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    """Token ids (N, 32) to hidden states (N, 32, width) and a pooled embedding (N, width)."""
    return CLIPTextModelWithProjection(text_config(tokenizer, width))


def new_transformer() -> SD3Transformer2DModel:
    """Noisy latents (N, 6, 8, 8), 1000 s (N,), hidden states and pooled embeddings to velocity."""
    return SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=LAYERS,
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        caption_projection_dim=HEAD * HEADS,
        joint_attention_dim=sum(WIDTHS),
        pooled_projection_dim=sum(WIDTHS),
        pos_embed_max_size=LATENT_SIDE // 2,
        qk_norm="rms_norm",
    )


class Text(nn.Module):
    """Token ids (N, 32) to hidden states (N, 32, 96) and pooled embeddings (N, 96) of two CLIPs."""

    def __init__(self, *encoders: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        found = [encoder(ids, output_hidden_states=True) for encoder in self.encoders]
        hidden = torch.cat([output.hidden_states[-2] for output in found], -1)
        return hidden, torch.cat([output.text_embeds for output in found], -1)


class Denoiser(nn.Module):
    """Text encoders and transformer, which are trained together to tell v = e - x_0."""

    def __init__(self, text: Text, transformer: SD3Transformer2DModel) -> None:
        super().__init__()
        self.text = text
        self.transformer = transformer

    @classmethod
    def new(cls, tokenizer: CLIPTokenizer) -> Denoiser:
        return cls(Text(*(new_text_encoder(tokenizer, w) for w in WIDTHS)), new_transformer())

    @classmethod
    def of(cls, pipeline: StableDiffusion3Pipeline) -> Denoiser:
        return cls(Text(pipeline.text_encoder, pipeline.text_encoder_2), pipeline.transformer)

    def error(self, latents: Tensor, ids: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Squared error of v in x_s = (1 - s) x_0 + s e, for D draws of a latent.

        All draws but a latent's first are without the pooled embedding, so that hidden states alone
        say what to draw.

        Args:
            latents: x_0, (N, C, h, w).
            ids: of the captions, (N, n).
            noise: e, (N, D, C, h, w).
            times: s, (N, D), in [0, 1).

        Source: Esser et al., "Scaling rectified flow transformers for high-resolution image
        synthesis" (2024), section 2.
        """
        draws = noise.shape[1]
        clean, noise = latents.repeat_interleave(draws, 0), noise.flatten(0, 1)
        hidden, pooled = self.text(ids)
        without = torch.zeros_like(pooled).unsqueeze(1).expand(-1, draws - 1, -1)
        sigma = times.flatten()
        s = sigma.view(-1, 1, 1, 1)
        keys = self.transformer.config.pos_embed_max_size**2 + hidden.shape[1] + 1
        with RepeatedLastKey(T5_TOKENS, keys):
            predicted = self.transformer(
                hidden_states=(1 - s) * clean + s * noise,
                timestep=1000 * sigma,
                encoder_hidden_states=F.pad(hidden, (0, 0, 0, 1)).repeat_interleave(draws, 0),
                pooled_projections=torch.cat([pooled.unsqueeze(1), without], 1).flatten(0, 1),
            ).sample
        return F.mse_loss(predicted, noise - clean)

    def assemble(self, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusion3Pipeline:
        """A pipeline of these parts, without T5; the transformer in half precision."""
        return StableDiffusion3Pipeline(
            vae=vae,
            text_encoder=self.text.encoders[0],
            text_encoder_2=self.text.encoders[1],
            text_encoder_3=None,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            tokenizer_3=None,
            transformer=self.transformer.to(torch.float16),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
