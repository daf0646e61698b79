"""Pictures and sentences mapped to each other by one invertible network."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invcap.captioning import Caption, InvertibleCaptioner
    from invcap.prompt_inversion import PromptInversionPipeline

HOMES = {
    "Caption": "captioning",
    "InvertibleCaptioner": "captioning",
    "PromptInversionPipeline": "prompt_inversion",
}
__all__ = ["Caption", "InvertibleCaptioner", "PromptInversionPipeline", "__version__"]
__version__ = version("invcap")


def __getattr__(name: str) -> Any:
    """Imports what is asked for: the commands' help needs neither torch nor the encoders."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"invcap.{HOMES[name]}"), name)
