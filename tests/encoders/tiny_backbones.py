"""Backbones of random weights, small enough to build in every test."""

from pathlib import Path
from typing import Any

import torch
import transformers

LAYERS = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "initializer_range": 0.5,  # so that outputs are far above the tolerances of tests
}
VISION = LAYERS | {"image_size": 32, "patch_size": 16}
TEXT = LAYERS | {"vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
SQUARE = {"height": 32, "width": 32}
CROPPED = {"size": {"shortest_edge": 36}, "crop_size": SQUARE}


def build(name: str) -> tuple[Any, Any]:
    """A model of transformers and its image processor."""
    t = transformers
    torch.manual_seed(0)
    match name:
        case "clip":
            config = t.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=8)
            return t.CLIPModel(config), t.CLIPImageProcessor(**CROPPED)
        case "clip vision":
            return t.CLIPVisionModel(t.CLIPVisionConfig(**VISION)), t.CLIPImageProcessor(**CROPPED)
        case "siglip":
            config = t.SiglipConfig(vision_config=VISION, text_config=TEXT)
            return t.SiglipModel(config), t.SiglipImageProcessor(size=SQUARE)
        case "dinov2":
            config = t.Dinov2Config(**LAYERS, image_size=32, patch_size=16)
            return t.Dinov2Model(config), t.BitImageProcessor(**CROPPED)
        case "vit":
            return t.ViTModel(t.ViTConfig(**VISION)), t.ViTImageProcessor(size=SQUARE)
        case "vit classifier":
            model = t.ViTForImageClassification(t.ViTConfig(**VISION))
            return model, t.ViTImageProcessor(size=SQUARE)
        case "resnet":
            config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
            return t.ResNetModel(config), t.ConvNextImageProcessor(size={"shortest_edge": 32})
        case "bert":
            return t.BertModel(t.BertConfig(**TEXT)), t.ViTImageProcessor(size=SQUARE)
    raise ValueError(name)


def write_backbone(name: str, folder: Path) -> str:
    """Writes a model and its image processor as `from_pretrained` reads them."""
    for part in build(name):
        part.save_pretrained(folder)
    return str(folder)
