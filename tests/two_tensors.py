"""A family of models whose prompts are two tensors, hidden states and a pooled one."""

from types import SimpleNamespace
from typing import ClassVar

import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import FrozenDict
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage

LETTERS = " abcdefghijklmnopqrstuvwxyz"
TOKENS, WIDTH, POOLED = 9, 6, 3
SHAPES = {"prompt_embeds": (TOKENS, WIDTH), "pooled_prompt_embeds": (POOLED,)}


class Denoiser(nn.Module):
    device, dtype, config = torch.device("cpu"), torch.float32, FrozenDict()

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 3, padding=1)
        self.hidden = nn.Linear(WIDTH, 3)
        self.pooled = nn.Linear(POOLED, 3)
        self.large = nn.Linear(POOLED, 128)  # what `signature` sees

    def forward(self, noisy: Tensor, steps: Tensor, hidden: Tensor, pooled: Tensor) -> Tensor:
        shift = self.hidden(hidden.tanh()).mean(1) + self.large(pooled).mean(1, keepdim=True)
        scale = 1 + self.pooled(pooled).tanh() + steps[:, None] / 100
        return self.mix(noisy) * scale[:, :, None, None] + shift[:, :, None, None]


class TwoTensorPipeline:
    """The part of a diffusers pipeline that a frozen model uses; its images show its prompt."""

    name_or_path = ""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.denoiser = Denoiser()
        self.table = nn.Embedding(len(LETTERS), WIDTH)
        self.pool = nn.Linear(WIDTH, POOLED)
        self.components = {name: vars(self)[name] for name in ("denoiser", "table", "pool")}
        self.scheduler = DDIMScheduler(20, 0.01, 0.2)

    def set_progress_bar_config(self, **_: object) -> None:
        pass

    def __call__(
        self,
        prompt_embeds: Tensor,
        pooled_prompt_embeds: Tensor,
        height: int,
        width: int,
        generator: torch.Generator,
        **_: object,
    ) -> SimpleNamespace:
        level = 128 + int(10 * (prompt_embeds.sum() + pooled_prompt_embeds.sum()))
        return SimpleNamespace(images=[Image.new("RGB", (width, height), (level, 0, 0))])


class TwoTensors(FrozenTextToImage):
    pipelines = ("TwoTensorPipeline",)
    denoiser = property(lambda self: self.pipeline.denoiser)
    size = (8, 8)
    pixels_per_latent = 2
    conditioning_shapes = property(lambda self: SHAPES)
    token_table = property(lambda self: self.pipeline.table.weight)
    word_tokens = range(1, len(LETTERS))
    token_parts: ClassVar[dict[str, int]] = {"letters": WIDTH}

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return F.avg_pool2d(pixels, 2)

    def check_prompt(self, prompt: str) -> None:
        if not 1 <= len(prompt) <= TOKENS:
            raise ValueError(f"a prompt has 1 to {TOKENS} letters, got {prompt!r}")

    def tokenize(self, prompt: str) -> list[int]:
        return [LETTERS.index(letter) for letter in prompt]

    def read_tokens(self, ids: Tensor) -> list[str]:
        return ["".join(LETTERS[number] for number in row) for row in ids.tolist()]

    def encode_tokens(self, vectors: Tensor) -> Conditioning:
        hidden = F.pad(vectors, (0, 0, 0, TOKENS - vectors.shape[1]))
        pooled = self.pipeline.pool(vectors.sum(1))
        return Conditioning({"prompt_embeds": hidden, "pooled_prompt_embeds": pooled})

    def encode_few(self, prompts: list[str]) -> Conditioning:
        hidden, pooled = [], []
        for prompt in prompts:
            one = self.encode_tokens(self.token_table[self.tokenize(prompt)][None]).tensors
            hidden.append(one["prompt_embeds"])
            pooled.append(one["pooled_prompt_embeds"])
        tensors = {"prompt_embeds": torch.cat(hidden), "pooled_prompt_embeds": torch.cat(pooled)}
        return Conditioning(tensors)

    def predict_noise(self, noisy: Tensor, steps: Tensor, conditioning: Conditioning) -> Tensor:
        hidden, pooled = (conditioning.tensors[name] for name in self.conditioning_shapes)
        return self.denoiser(noisy, steps, hidden, pooled)
