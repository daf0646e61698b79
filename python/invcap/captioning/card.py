"""The model card of a captioner: its data, figures and drawn images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

ABOUT = ("data", "training", "metrics")
TEMPLATE = Path(__file__).with_name("card.md")


def make_card(about: Mapping[str, Any], samples: str | None) -> ModelCard:
    """The model card, with the facts that are known.

    Args:
        about: `data` and `training`, settings by name, and `metrics` as `evaluate` gives them.
        samples: file of drawn images in the model's folder.
    """
    data = ModelCardData(
        library_name="invcap", pipeline_tag="image-to-text", tags=["model_hub_mixin"]
    )
    facts = {name: about.get(name) for name in ABOUT}
    return ModelCard.from_template(data, template_path=str(TEMPLATE), samples=samples, **facts)
