"""The bound of each family, written out in float64 for one latent after the other."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from math import exp, log, pi
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

Tensors = Mapping[str, Tensor]
SIDE = 16.0


def denoiser_of(pipeline: Any) -> Any:
    """A pipeline's U-Net or transformer in float64."""
    return deepcopy(getattr(pipeline, "transformer", None) or pipeline.unet).double()


def unet(network: Any, x: Tensor, t: int, y: Tensors) -> Tensor:
    return network(x[None], torch.tensor([t]), y["prompt_embeds"]).sample[0]


def unet_xl(network: Any, x: Tensor, t: int, y: Tensors) -> Tensor:
    time_ids = torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]]).double()
    added = {"text_embeds": y["pooled_prompt_embeds"], "time_ids": time_ids}
    steps = torch.tensor([t])
    return network(x[None], steps, y["prompt_embeds"], added_cond_kwargs=added).sample[0]


def sd3(network: Any, x: Tensor, s: float, y: Tensors) -> Tensor:
    return network(
        hidden_states=x[None],
        timestep=torch.tensor([1000 * s]).double(),
        encoder_hidden_states=y["prompt_embeds"],
        pooled_projections=y["pooled_prompt_embeds"],
    ).sample[0]


def sd3_prompt(pipeline: Any, prompt: str) -> dict[str, Tensor]:
    """Prompts of Stable Diffusion 3: CLIPs side by side above zeros, then T5's states or zeros."""
    width, states = pipeline.transformer.config.joint_attention_dim, []
    pooled = []
    for number in ("", "_2"):
        tokenizer = getattr(pipeline, f"tokenizer{number}")
        tokens = tokenizer(prompt).input_ids
        if len(tokens) > 77:
            tokens = [*tokens[:76], tokens[-1]]
        tokens += [tokenizer.pad_token_id] * (77 - len(tokens))
        encoder = getattr(pipeline, f"text_encoder{number}")
        found = encoder(torch.tensor([tokens]), output_hidden_states=True)
        states.append(found.hidden_states[-2])
        pooled.append(found.text_embeds)
    rows = torch.zeros(1, 77 + 256, width)
    rows[:, :77, : sum(part.shape[2] for part in states)] = torch.cat(states, 2)
    if pipeline.text_encoder_3 is not None:
        tokens = pipeline.tokenizer_3(prompt).input_ids
        tokens += [pipeline.tokenizer_3.pad_token_id] * (256 - len(tokens))
        rows[:, 77:] = pipeline.text_encoder_3(torch.tensor([tokens]))[0]
    return {"prompt_embeds": rows, "pooled_prompt_embeds": torch.cat(pooled, 1)}


def flux(network: Any, x: Tensor, s: float, y: Tensors) -> Tensor:
    channels, height, width = x.shape
    rows, columns = height // 2, width // 2
    patches = torch.stack(
        [
            x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten()
            for row in range(rows)
            for column in range(columns)
        ]
    )
    places = torch.tensor([[0.0, row, column] for row in range(rows) for column in range(columns)])
    found = network(
        hidden_states=patches[None],
        timestep=torch.tensor([s]).double(),
        guidance=torch.ones(1).double() if network.config.guidance_embeds else None,
        pooled_projections=y["pooled_prompt_embeds"],
        encoder_hidden_states=y["prompt_embeds"],
        txt_ids=torch.zeros(y["prompt_embeds"].shape[1], 3),
        img_ids=places,
    ).sample[0]
    v = torch.zeros_like(x)
    for place, patch in enumerate(found):
        row, column = 2 * (place // columns), 2 * (place % columns)
        v[:, row : row + 2, column : column + 2] = patch.view(channels, 2, 2)
    return v


def z_image(network: Any, x: Tensor, s: float, y: Tensors) -> Tensor:
    (states,) = y["prompt_embeds"]
    count = int(states.detach().any(1).sum())
    t = torch.tensor([1 - s]).double()
    return -network([x[:, None]], t, [states[:count]]).sample[0][:, 0]


NETWORKS: dict[str, Callable[..., Tensor]] = {
    "StableDiffusion": unet,
    "StableDiffusionXL": unet_xl,
    "StableDiffusion3": sd3,
    "Flux": flux,
    "ZImage": z_image,
}
FLOWS = ("StableDiffusion3", "Flux", "ZImage")


def log_snr(s: float) -> float:
    return 2 * log((1 - s) / s)


def levels(pipeline: Any) -> list[float]:
    """s below 1, from the smallest, of a scheduler that no drawing has changed."""
    config = pipeline.scheduler.config
    even = [k / config.num_train_timesteps for k in range(1, config.num_train_timesteps)]
    return [config.shift * s / (1 + (config.shift - 1) * s) for s in even]


def flow_error(
    family: str, pipeline: Any, network: Any, x0: Tensor, e: Tensor, at: float, y: Tensors
) -> Tensor:
    """The step's half of its share of log SNR, times ||e - e_hat||^2."""
    k = int(at)
    near, far = (log_snr(s) for s in levels(pipeline)[k : k + 2])
    s = 1 / (1 + exp((near + (at - k) * (far - near)) / 2))
    x = (1 - s) * x0 + s * e
    guess = x + (1 - s) * NETWORKS[family](network, x, s, y)
    return (near - far) / 2 * (e - guess).square().sum()


def flow_constant(pipeline: Any, x0: Tensor) -> Tensor:
    """Minus the prior's divergence, and E log N(x_0; x_s / (1 - s), (s / (1 - s))^2)."""
    s, end = levels(pipeline)[0], levels(pipeline)[-1]
    size = ((1 - end) ** 2 + end**2) ** 0.5
    last = Normal((1 - end) * x0, torch.full_like(x0, end))
    prior = kl_divergence(last, Normal(torch.zeros_like(x0), size)).sum()
    reconstruction = -0.5 * (log(2 * pi * (s / (1 - s)) ** 2) + 1) * x0.numel()
    return reconstruction - prior


def diffusion_error(
    family: str, pipeline: Any, network: Any, x0: Tensor, e: Tensor, at: float, y: Tensors
) -> Tensor:
    """KL(q(x_{t-1} | x_t, x_0) | p(x_{t-1} | x_t)); of the first step, what depends on e_hat."""
    t = int(at) + 1
    abar = [1.0, *pipeline.scheduler.alphas_cumprod.double().tolist()]
    alpha = abar[t] / abar[t - 1]
    xt = abar[t] ** 0.5 * x0 + (1 - abar[t]) ** 0.5 * e
    clean = (xt - (1 - abar[t]) ** 0.5 * NETWORKS[family](network, xt, t - 1, y)) / abar[t] ** 0.5
    if t == 1:
        return (x0 - clean).square().sum() / (2 * (1 - abar[1]))
    scale = abar[t - 1] ** 0.5 * (1 - alpha) / (1 - abar[t])
    variance = (1 - alpha) * (1 - abar[t - 1]) / (1 - abar[t])
    return (scale * (x0 - clean)).square().sum() / (2 * variance)


def diffusion_constant(pipeline: Any, x0: Tensor) -> Tensor:
    abar = pipeline.scheduler.alphas_cumprod.double()
    last = Normal(abar[-1].sqrt() * x0, (1 - abar[-1]).sqrt())
    prior = kl_divergence(last, Normal(torch.zeros_like(x0), 1.0)).sum()
    return -0.5 * (2 * pi * (1 - abar[0])).log() * x0.numel() - prior


def error(family: str, *arguments: Any) -> Tensor:
    """What one noise sample adds to minus the bound, before it is weighted for being drawn."""
    return (flow_error if family in FLOWS else diffusion_error)(family, *arguments)


def constant(family: str, pipeline: Any, x0: Tensor) -> Tensor:
    """What the bound has beside, nats."""
    return (flow_constant if family in FLOWS else diffusion_constant)(pipeline, x0)
