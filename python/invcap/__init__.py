"""Pictures and sentences mapped to each other by one invertible network."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invcap.captioning import Caption, InvertibleCaptioner

__all__ = ["Caption", "InvertibleCaptioner"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for: the commands' help needs neither torch nor the encoders."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from invcap import captioning

    return getattr(captioning, name)
