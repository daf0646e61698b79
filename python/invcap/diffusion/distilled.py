"""Distilled models, whose bound is no likelihood of data."""

from __future__ import annotations

import logging
import re
from pathlib import Path

logger = logging.getLogger(__name__)
FEW_STEPS = {"turbo", "schnell", "lightning", "lcm", "hyper", "distilled", "dmd", "dmd2"}


def named_distilled(name: str) -> str | None:
    """The part of a name that says a model was distilled to few steps; None if none does.

    Args:
        name: a folder, a file, or a name on the hub.
    """
    words = re.split(r"[^a-z0-9]+", Path(name).name.lower())
    return next((f"its name says {word}" for word in words if word in FEW_STEPS), None)


def warn_if_distilled(name: str, reason: str | None) -> None:
    """Warns that the bound of a distilled model is no likelihood of data.

    Args:
        reason: why it is taken to be distilled; None if it is not.
    """
    if reason is not None:
        logger.warning(
            "%s: a distilled model (%s): it was trained to imitate another model's images, so its "
            "bound is not a likelihood of data; prompts are compared by what it learned to draw",
            name or "pipeline",
            reason,
        )
