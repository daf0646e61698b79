"""What training minimizes, on standardized latents x and embeddings e, (rows, n) each."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from invcap_ext import InvertibleNetwork

Objective = Literal["caption", "bidirectional", "likelihood"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


def caption_loss(network: InvertibleNetwork, x: Tensor, e: Tensor) -> dict[str, Tensor]:
    """mean (f(x) - e)^2, over rows and features.

    Source: "Image Generation from Image Captioning - Invertible Approach", section 3.2.
    """
    return {"caption": F.mse_loss(network(x), e)}


def bidirectional_loss(network: InvertibleNetwork, x: Tensor, e: Tensor) -> dict[str, Tensor]:
    """mean (f(x) - e)^2 and mean (f^-1(e) - x)^2: the same pairs, in both directions."""
    return {**caption_loss(network, x, e), "generation": F.mse_loss(network.inverse(e), x)}


def likelihood_loss(
    network: InvertibleNetwork, x: Tensor, e: Tensor, log_sigma: Tensor
) -> dict[str, Tensor]:
    """-log p(x | e) / n, up to a constant, where f(x) is normal about e with deviation sigma:

    mean (f(x) - e)^2 / (2 sigma^2) + log sigma - log|det df/dx| / n
    """
    volume = network.log_abs_det_jacobian(x).mean() / x.shape[-1]
    error = caption_loss(network, x, e)["caption"]
    return {"likelihood": error / (2 * torch.exp(2 * log_sigma)) + log_sigma - volume}
